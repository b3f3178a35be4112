"""`ccld` before a command runs: help, spelling of options, start and interruption."""

import configparser
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diffusers_ccld.cli.arguments import OPTIONS
from diffusers_ccld.cli.main import COMMANDS
from diffusers_ccld.inference.devices import DTYPES
from diffusers_ccld.inference.provenance import save_picture
from diffusers_ccld.schedulers.names import ALGORITHMS
from diffusers_ccld.schedulers.solvers import METHODS
from diffusers_ccld.utils.arguments import ArgumentParser
from support.scripts import ROOT

NAMES = [command.__name__.rpartition(".")[2].replace("_", "-") for command in COMMANDS]
HEAVY = {"torch", "diffusers", "transformers", "huggingface_hub", "numpy", "PIL", "gradio"}
RUN = f"""
import sys
from ccld_command import main
try:
    status = main()
except SystemExit as exit:
    status = exit.code
print("status", status, "imported", sorted({HEAVY} & set(sys.modules)))
"""


def ccld(*arguments):
    """Runs `ccld` in a process of its own; returns its standard output and its standard error."""
    result = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True)
    return result.stdout, result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["--version"], ["--help"], *([name, "--help"] for name in NAMES)], ids=" ".join
)
def test_help_imports_no_library(arguments):
    output, error = ccld(*arguments)
    assert output.splitlines()[-1] == "status 0 imported []" and not error
    assert len(output.splitlines()) > 1


WRONG = [
    (["smaple"], "'smaple' is not a command. Did you mean sample?"),
    (["paint", "a rose"], "'paint' is not a command. Did you mean sample? Commands are sample, interpolate, "),
    (["txt2img"], "Did you mean sample?"),
    (["Edit", "fox.png"], "Did you mean ccld sample PROMPT --edit FILE?"),
    (["serve"], "Did you mean demo?"),
    (["info", "fox.png"], "Did you mean inspect?"),
    (["help"], "Did you mean --help?"),
    (["train"], "Did you mean python training/finetune.py?"),
    (["com"], "Did you mean compare?"),
    (["co"], "Did you mean compare or convert?"),
    (["a rose in bloom"], "'a rose in bloom' is not a command. To paint it: ccld sample \"a rose in bloom\" (`"),
    (["a", "rose", "in", "bloom", "-n", "2"], 'To paint it: ccld sample "a rose in bloom" (`'),
    (["cat", "on", "a", "rug"], 'To paint it: ccld sample "cat on a rug" (`'),
    (["rose"], 'measure-scale. To paint it: ccld sample "rose" (`'),
    (["a \udcff rose"], "To paint it: ccld sample $'a \\xff rose'"),
    (["a\u3000rose"], 'To paint it: ccld sample "a\u3000rose"'),
    (["roses & `ls`"], "To paint it: ccld sample 'roses & `ls`' (`"),
    (["fox.png"], "'fox.png' is not a command. To describe this file: ccld inspect fox.png (`"),
    (["1:2"], "'1:2' is not a command. Commands are "),
    (["--versoin"], "unrecognized arguments: --versoin. Did you mean --version?"),
    (["--hepl", "sample", "a"], "unrecognized arguments: --hepl. Did you mean --help?"),
    (["--verbose", "sample", "a"], "--verbose. It follows the command: ccld sample … --verbose"),
    (["--num_images=3", "sample"], "It follows the command: ccld sample … --num_images"),
    (["--nothing"], "unrecognized arguments: --nothing. ("),
    (["sample", "--stpes", "3"], "unrecognized arguments: --stpes. Did you mean --steps?"),
    (["sample", "x", "--nagative", "fog"], "Did you mean --negative-prompt?"),
    (["sample", "x", "--neg", "fog"], "unrecognized arguments: --neg fog. Did you mean --negative-prompt?"),
    (["sample", "x", "--guidence", "2"], "Did you mean --guidance-scale or --guidance-interval?"),
    (["--vers"], "unrecognized arguments: --vers. Did you mean --version?"),
    (["sample", "--no_such_flag"], "unrecognized arguments: --no-such-flag. ("),
    (["sample", "a", "--style", "b"], "unrecognized arguments: --style b. ("),
    (["sample", "a", "--cfg", "3"], "unrecognized arguments: --cfg 3. Did you mean --guidance-scale?"),
    (["sample", "a", "--num_inference_steps=3"], "Did you mean --steps?"),
    (["sample", "a", "--size", "256"], "Did you mean --width and --height?"),
    (["sample", "--prompt", "a"], "Did you mean the prompt without an option?"),
    (["inspect", "x", "--prompt", "a"], "unrecognized arguments: --prompt a. ("),
    (["sample", "--steps", "many"], "argument --steps: 'many' is not a whole number from 1 to 1000"),
    (["sample", "a", "--steps", "0"], "argument --steps: '0' is not"),
    (["sample", "a", "-n", "0"], "argument -n/--num-images"),
    (["sample", "a", "--best", "0"], "argument --best: '0' is not a whole number of at least 1"),
    (["sample", "a", "--cloob-guidance", "-1"], "'-1' is not a finite number of at least 0"),
    (["sample", "a", "--guidance-scale", "inf"], "'inf' is not a finite number ("),
    (["sample", "a", "-n", "1000000000"], "not a whole number from 1 to 100000"),
    (["sample", "a", "--eta", "2"], "argument --eta: '2' is not a number from 0 to 1"),
    (["sample", "a", "--seed", "-2"], "argument --seed: '-2' is not a whole number from -1 to 9223372036854775807"),
    (["sample", "a", "--height", "100000"], "argument --height"),
    (["sample", "a", "--init", "a.png", "--edit", "b.png"], "not allowed with"),
    (["sample", "a", "--seed", str(2**63 - 1)], "seeds reach beyond"),
    (["sample", "a", "--image", "nowhere.png"], "--image nowhere.png: the file does not exist."),
    (["sample", "a", "--image", "https://example.org/fox.png"], "is not fetched"),
    (["sample", "a", "--init", "/"], "--init /: this is a folder"),
    (["sample", "a", "--mask", "a.png"], "--mask needs"),
    (["sample", "a", "--edit", "/", "--mask", "/"], "--mask belongs to --init, not to --edit"),
    (["sample", "a", "--strength", "0.5"], "--strength is the strength"),
    (["sample", "--best", "1"], "--best needs a prompt"),
    (["sample", "a", "--best", "9"], "--best 9"),
    (["sample", "--negative-prompt", "fog"], "--negative-prompt needs a prompt"),
    (["sample", "a", "--eta", "0.5", "--algorithm", "plms"], "--eta is an option of --algorithm ddim"),
    (["sample", "a", "--guidance-interval", "0.5", "0.2"], "--guidance-interval 0.5 0.2"),
    (["sample", "a", "--model", "./nowhere"], "--model ./nowhere: this is neither a folder"),
    (["sample", "a", "--model", "nowhere"], "--model nowhere: this is neither a folder nor a model on the Hub"),
    (["sample", "a", "--output", "/dev/null/pictures"], "--output /dev/null/pictures: /dev/null is not a folder"),
    (["sample", "a", "-o", "fox.jpg"], "written as PNG"),
    (["sample", "a", "-o", "fox.png", "-n", "2"], "one file, for 2 pictures"),
    (["sample", "a cat at 10:30"], "'a cat at 10' with the weight 30"),
    (
        ["sample", "a rose:"],
        "'a rose:' ends in a colon without a weight. Leave the colon out, or add a weight, as in 'a ",
    ),
    (["interpolate", "a rose: ", "a cat"], "'a rose: ' ends in a colon"),
    (["sample", "a rose \udcff"], "'a rose \\udcff' has a character that is not text: '\\udcff'."),
    (["interpolate", "a rose \udcff", "a cat"], "has a character that is not text"),
    (["sample", "“a rose”"], "'“a rose”' has quotation marks that are part of it: type \"a rose\"."),
    (["sample", "«a rose»:2"], "'«a rose»' has quotation marks"),
    (["sample", "“a", "rose”"], 'To give one prompt, write it in quotation marks: "a rose".'),
    (["sample", "a rose:1,5", "a cat"], "because of the comma: for a weight, type 'a rose:1.5'."),
    (["sample", '"a rose"'], 'has quotation marks that are part of it: type "a rose".'),
    (["sample", "a cat", "--negative-prompt", "“fog”"], "'“fog”' has quotation marks"),
    (["sample", "a rose", "2,5"], "'2,5' would be a prompt of its own; a weight follows its prompt and a colon"),
    (["sample", "(a rose:1.3)"], "for a weight, type 'a rose:1.3'."),
    (["sample", "a rose", "—seed", "3"], "'—seed' begins with the dash of a word processor: type --seed."),
    (["sample", "a rose -n 4"], "'a rose -n 4' has -n in it"),
    (["sample", "a rose --seed 3"], "'a rose --seed 3' has --seed in it: an option belongs outside"),
    (["sample", "help"], "'help' would be the prompt. To see the options, give --help."),
    (["sample", "a rose:-1"], "All weights are negative, so the pictures have as little as possible of"),
    (
        ["sample", "dragon robot castle"],
        "The bundled model does not know: dragon, robot, castle. Nothing else in",
    ),
    (
        ["sample", "a cat", "a dragon in the sea of robots:2"],
        "Nothing else in 'a dragon in the sea of robots' says what to paint.",
    ),
    (["interpolate", "a cat", "a dragon"], "`ccld inspect default` lists the words that it knows. (Give --yes"),
    (["sample", "--edit", "fox.png"], 'as in: ccld sample "a cottage in winter" --edit fox.png'),
    (["sample", "a", "--guidance-scale", "30"], "--guidance-scale 30 is unusual"),
    (["sample", "a", "--image", "fox.png:20"], "--image fox.png has the weight 20"),
    (["sample", "a", "--embedding", "fox.safetensors:-16"], "--embedding fox.safetensors has the weight -16"),
    (["sample", "a", "cat", "on", "a", "rug"], 'write it in quotation marks: "a cat on a rug".'),
    (["sample", "fox.png"], "--image fox.png"),
    (["sample", "a", "cat:2"], 'in quotation marks: "a cat:2"'),
    (
        ["sample", "a rose", "a", "cat:2", "snow"],
        "These are 2 prompts, to be combined in one picture. To give one prompt, ",
    ),
    (["sample", "fox.PNG:2"], "file name of a picture"),
    (["sample", "a", "--negative-prompt", "fox.png"], "to steer away from a picture, give --image fox.png:-1"),
    (["sample", "a", "--negative-prompt", "fog:2"], "--negative-prompt 'fog:2' is taken as a text with its number"),
    (["interpolate", "a", "@nowhere.png"], "waypoint nowhere.png: the file does not exist"),
    (["interpolate", "a cat at 10:30", "a rose"], "'a cat at 10' with the weight 30"),
    (
        ["interpolate", "a", "cat", "on", "a", "rug"],
        "These are 5 waypoints of a path.",
    ),
    (["interpolate", "snow", "the", "cat:2"], 'quotation marks: "snow the cat:2"'),
    (["interpolate", "a rose", "fox.png"], "write '@fox.png' for a picture"),
    (["interpolate", "a rose", "snow", "--negative-prompt", "fox.png"], "--negative-prompt takes a text"),
    (["interpolate", "a rose", "snow", "--guidance-scale", "30"], "--guidance-scale 30 is unusual"),
    (["interpolate", "a", "b", "--seed", "1,x"], "argument --seed"),
    (["interpolate", "a", "b", "--frames", "1"], "argument --frames"),
    (["interpolate", "a", "b", "--frame-rate", "0"], "argument --frame-rate"),
    (["compare", "default", "--prompts", "a", "--variation", "2"], "argument --variation"),
    (["compare", "default", "--prompts", "a", "-n", "0"], "argument -n/--seeds"),
    (["compare", "default", "--prompts", "nowhere.txt"], "--prompts nowhere.txt"),
    (["convert", "--unet", "nowhere.ckpt", "--output", "x"], "--unet nowhere.ckpt"),
    (["embed", "nowhere.png", "-o", "x.safetensors"], "error: nowhere.png: the file does not exist"),
    (["embed", "/dev/null", "--model", "nowhere", "-o", "x.safetensors"], "--model nowhere: this is neither"),
    (["export", "nowhere"], "error: nowhere: the folder does not exist"),
    (["export-onnx", "nowhere"], "error: nowhere: this is neither a folder"),
    (["measure-scale", "--vae", "nowhere", "--images", "x"], "--vae nowhere"),
    (["measure-scale", "--vae", "x", "--images", "x", "--num_images", "0"], "argument --num-images"),
    (["inspect", "nowhere"], "nowhere: the file does not exist"),
    (["inspect", __file__], "is a text that begins"),
    (["inspect", str(ROOT / "setup.cfg")], "setup.cfg is neither a picture that ccld painted nor a checkpoint."),
    (["inspect", str(ROOT / "docs" / "images" / "blind.jpg")], "is a JPEG picture. `ccld inspect` describes PNG, GIF"),
    (["inspect", "a.png", "b\x1b[31m\u202e.png"], "unrecognized arguments: b\\x1b[31m\\u202e.png. ("),
    (["sample", "a", "--init", "x\x1b[31m.png"], "--init x\\x1b[31m.png: the file does not exist."),
    (
        ["inspect", __file__],
        "`ccld inspect` describes PNG, GIF and WebP files that ccld painted, pipelines' folders, and",
    ),
    (["sample", ""], "A prompt is empty. Leave it out"),
    (["sample", "a", " "], "A prompt is empty."),
    (["inspect", "defualt"], "defualt: the file does not exist. Did you mean default?"),
    (["sample", "a", "--init", "~no-such-user/x.png"], "--init ~no-such-user/x.png: the file does not exist"),
    (["sample", "a", "--model", "~no-such-user/x"], "--model ~no-such-user/x: this is neither a folder"),
    (["interpolate", "@~no-such-user/x.png", "a"], "waypoint ~no-such-user/x.png: the file does not exist"),
    (["demo", "--port", "99999"], "argument --port"),
    (["sample", "--algorithm", "euler"], "invalid choice: 'euler'"),
    (["convert"], "--output"),
]
RUN_ALL = f"""
import contextlib, io, json, sys
from ccld_command import main
answers = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            status = main(arguments)
        except SystemExit as exit:
            status = exit.code
    answers.append([status, error.getvalue(), sorted({HEAVY} & set(sys.modules))])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers():
    """Status, errors and imports after each of the wrong command lines, all in one process."""
    command = [sys.executable, "-c", RUN_ALL]
    cases = json.dumps([arguments for arguments, _ in WRONG])
    return json.loads(subprocess.run(command, input=cases, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("index", range(len(WRONG)), ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_input_is_one_line_and_imports_no_library(answers, index):
    status, error, imported = answers[index]
    assert (status, imported) == (2, [])
    assert WRONG[index][1] in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, status, message",
    [(["sample", "a", "--image", "nowhere.png"], 2, "does not exist"), ([], 0, "usage: ccld")],
)
def test_a_wrong_option_and_the_help_take_little_time(arguments, status, message):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output, error = ccld(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert output.splitlines()[-1] == f"status {status} imported []" and message in (error or output)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 0.3


def test_the_command_is_started_without_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].strip() == "ccld = ccld_command:main"
    assert setup["options"]["py_modules"] == "ccld_command"
    assert sorted(path.name for path in (ROOT / "src").glob("[a-z]*.py")) == ["ccld_command.py"]


def test_a_command_has_the_whole_package(tmp_path, pipeline_folder):
    output, error = ccld(
        *("sample", "a rose", "--model", str(pipeline_folder), "--num_images", "1", "--steps=1", "--height", "64"),
        *("--width", "64", "--output", str(tmp_path / "out")),
    )
    assert output.splitlines()[-1].startswith("status 0") and (tmp_path / "out" / "a-rose-0.png").is_file()
    ours = [line.split()[0] for line in error.splitlines()]
    assert ours == ["warning:", "prompt", "model", "size", "seed", "files"]  # and nothing of the libraries
    code = (
        "from ccld_command import main; main(['inspect', f'{sys.argv[1]}/unet/diffusion_pytorch_model.safetensors']);"
        "import diffusers, diffusers_ccld;"
        "print(type(diffusers.DiffusionPipeline.from_pretrained(sys.argv[1])).__name__, diffusers_ccld.CCLDPipeline)"
    )
    command = [sys.executable, "-c", f"import sys; {code}", str(pipeline_folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].startswith("CCLDPipeline <class 'diffusers_ccld.pipelines.")


def test_pictures_and_folders_are_described_without_torch(tmp_path):
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "ours.png", {"conditions": [["a cat", 2.0]], "seed": 7})
    output, error = ccld("inspect", str(tmp_path / "ours.png"))
    assert output.splitlines()[-1] == "status 0 imported ['PIL']" and not error
    assert "command: ccld sample 'a cat:2'" in output
    output, error = ccld("inspect", "default")
    assert "torch" not in output.splitlines()[-1] and not error
    assert "UNet2DConditionModel" in output and "a cat on a rug" in output


@pytest.mark.parametrize("start", [["-m", "ccld_command"], ["-m", "diffusers_ccld"], ["conversion/convert_ckpt.py"]])
def test_other_ways_to_start(start):
    command = [sys.executable, *start, "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert output.startswith("usage: ccld")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_libraries_are_imported_is_one_line(stop, tmp_path):
    """A library that turns KeyboardInterrupt into another error does not hide it."""
    (tmp_path / "torch.py").write_text(
        "import time\nprint('importing', flush=True)\ntry:\n    time.sleep(60)\n"
        "except BaseException:\n    raise ImportError('hidden')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    (tmp_path / "unet.ckpt").write_bytes(b"\x80\x02")
    command = [sys.executable, "-m", "ccld_command", "inspect", str(tmp_path / "unet.ckpt")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": path}

    def accept_interrupts():  # a suite in the background of a shell ignores SIGINT, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(command, **pipes, text=True, env=environment, preexec_fn=accept_interrupts)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(stop)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "interrupted\n")


def test_an_interruption_while_torch_paints_ends_at_once(trainable_folder, tmp_path):
    """Without the regular end of the interpreter, which takes seconds, and with nothing half-written."""
    code = (
        "import atexit, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "atexit.register(print, 'a regular end'); from ccld_command import main; sys.exit(main())"
    )
    arguments = ["sample", "a rose", "--model", str(trainable_folder), "-n", "5000", "-o", str(tmp_path / "out")]
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    painted = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=100)
    assert process.returncode == 130
    assert [line.split()[0] for line in error.splitlines()] == [
        "prompt",
        "model",
        "size",
        "seeds",
        "files",
        "interrupted",
    ]
    painted += output.splitlines()
    names = [Path(line.strip()).name for line in painted]
    files = sorted(
        os.listdir(tmp_path / "out"), key=lambda name: int(name[7:-4])
    )  # one more if it came between a file and its name
    assert files[: len(names)] == names and len(files) <= len(names) + 1 < 100


def test_options_have_hyphens_and_underscores_are_accepted():
    parser = ArgumentParser(prog="test")
    parser.add_argument("--max_steps", "--max-steps", type=int)
    parser.add_argument_group("names").add_argument("--run-name")
    parser.add_argument("rest", nargs="*")
    assert "--max-steps" in parser.format_help() and "--max_steps" not in parser.format_help()
    for spelling in ("--max_steps", "--max-steps"):
        for arguments in ([spelling, "5"], [f"{spelling}=5"]):
            assert parser.parse_args([*arguments, "--run_name=a_b"]) == parser.parse_args(
                ["--max-steps", "5", "--run-name", "a_b"]
            )
    assert parser.parse_args(["a_b", "--", "--c_d"]).rest == ["a_b", "--c_d"]


def test_names_are_those_of_the_library():
    assert tuple(METHODS) == ALGORITHMS
    assert OPTIONS["--dtype"]["choices"] == ["auto", *DTYPES]


def scripts():
    return sorted(path for folder in ("training", "conversion", "benchmarks") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", scripts(), ids=lambda path: Path(path).stem)
def test_scripts_use_the_parser_that_accepts_both_spellings(path):
    assert "argparse.ArgumentParser(" not in path.read_text()
