"""The command that a training or a conversion prints last must be one that `ccld` takes."""

import shlex

from diffusers_ccld.cli.main import make_parser
from diffusers_ccld.utils.next_steps import print_how_to_sample


def test_the_printed_command_samples_the_folder(tmp_path, capsys):
    folder = tmp_path / "my model"
    folder.mkdir()
    print_how_to_sample(folder)
    assert capsys.readouterr().out == ""  # a part of a pipeline, such as a LoRA
    (folder / "model_index.json").touch()
    print_how_to_sample(folder)
    program, *arguments = shlex.split(capsys.readouterr().out.partition(": ")[2])
    args = make_parser(arguments).parse_args(arguments)
    assert program == "ccld" and args.model == str(folder) and args.prompts == ["PROMPT"]
