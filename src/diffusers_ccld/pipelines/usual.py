"""The usual strengths and steps of the tasks that begin with a picture, for pipelines, command line and demo.

Free of torch, for the command line.
"""

STRENGTHS = {"image_to_image": 0.8, "edit": 0.9, "inpaint": 1.0}
INVERSION_STEPS = 50  # an inversion has to be exact, so that the way back leads to the picture
