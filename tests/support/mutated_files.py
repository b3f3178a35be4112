#!/usr/bin/env python3
"""Damaged and hostile files, through `inspect` and the converter: nothing in them runs, nothing of them is left.

    mutated_files.py --count 500

Every file is tried in a process of its own. Reported are all that ended in a traceback, left a folder behind, ran what
was in the file, or took more memory than twice the file's size beside what a sound file of no size takes.
"""

import argparse
import collections
import contextlib
import io
import os
import random
import shutil
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from tqdm import tqdm

from diffusers_ccld.cli import main
from support import original_files

# What the libraries' code, and running the small result once, take in any case.
FIXED_MEMORY = 320 * 2**20


# Hostile pickles: every way in which a pickle imports or calls


class Exploit:
    """Makes a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def short(text):
    """A text in pickle's binary form."""
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def hostile_pickles(trace):
    """Pickles that would make the folder `trace`, by the opcode that would do it."""
    name, arguments = short(str(trace)), short(str(trace)) + b"\x85"
    mkdir, stack_mkdir = b"cos\nmkdir\n", short("os") + short("mkdir") + b"\x93"
    return {
        "GLOBAL": b"\x80\x02" + mkdir + arguments + b"R.",
        "STACK_GLOBAL": b"\x80\x04" + stack_mkdir + arguments + b"R.",
        "INST": b"(" + name + b"ios\nmkdir\n.",
        "OBJ": b"(" + mkdir + name + b"o.",
        "NEWOBJ": b"\x80\x02" + mkdir + arguments + b"\x81.",
        "NEWOBJ_EX": b"\x80\x04" + stack_mkdir + arguments + b"}\x92.",
        "EXT1": b"\x80\x02\x82\x01" + arguments + b"R.",
        "EXT2": b"\x80\x02\x83\x01\x00" + arguments + b"R.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00" + arguments + b"R.",
        "PERSID": b"P" + str(trace).encode() + b"\n.",
        "BINPERSID": b"\x80\x02" + name + b"Q.",
        "BUILD": b"\x80\x02cnumpy\ndtype\n" + short("f4") + b"\x85R}" + short("__class__") + mkdir + b"sb.",
        "EVAL": b"\x80\x02cbuiltins\neval\n" + short(f"__import__('os').mkdir({str(trace)!r})") + b"\x85R.",
        "GETATTR": b"\x80\x02cbuiltins\ngetattr\n" + mkdir + short("__call__") + b"\x86R" + arguments + b"R.",
        "NUMPY": b"\x80\x02cnumpy.testing._private.utils\nrunstring\n"
        + short(f"import os; os.mkdir({str(trace)!r})")
        + b"}\x86R.",
        "IN_ARRAY": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n" + mkdir + b"K\x00\x85" + short("b") + b"\x87R.",
    }


# Small pickles that would use up memory or time, or bring the interpreter down
BOMBS = {
    "memo": b"Nr" + struct.pack("<I", 2**31) + b".",
    "deep": b"}N" + b"\x85" * 500_000 + b"Ns.",
    "wide": b"}N\x85q\x00" + b"".join(b"h%c\x68%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"Ns.",
    "bytearray": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (2**35).to_bytes(5, "little") + b"\x85R.",
    "zeros": b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(\x8a\x05"
    + (2**35).to_bytes(5, "little")
    + b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85RK\x01\x85X\x01\x00\x00\x00CtR.",
    "encode": b"\x80\x02c_codecs\nencode\nq\x000X\x00\x00\x10\x00"
    + b"a" * 2**20
    + b"q\x010]"
    + b"h\x00h\x01X\x06\x00\x00\x00latin1\x86Ra" * 1000
    + b".",
    "parts": b"]" * (2 * 10**6) + b".",
}


def as_torch_file(data, path):
    """A pickle in the archive that PyTorch writes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")


# Mutations of sound files


def flip_bytes(data, chance):
    for _ in range(chance.choice((1, 3, 20, 200))):
        # Half of them where formats keep their structure: at the ends.
        near_end = chance.random() < 0.5
        edge = min(4096, len(data))
        at = chance.choice((chance.randrange(edge), len(data) - 1 - chance.randrange(edge)))
        data[at if near_end else chance.randrange(len(data))] = chance.randrange(256)
    return data


def truncate(data, chance):
    return data[: chance.randrange(len(data))]


def insert(data, chance):
    at = chance.randrange(len(data))
    return data[:at] + bytes(chance.randrange(256) for _ in range(chance.choice((1, 16, 4096)))) + data[at:]


def repeat_a_part(data, chance):
    at = chance.randrange(len(data))
    return data[:at] + data[max(at - 1000, 0) :]


def swap_shapes(state, chance):
    first, second = chance.sample(sorted(state), 2)
    state[first], state[second] = state[second], state[first]


def transpose(state, chance):
    name = chance.choice([n for n, t in state.items() if t.ndim > 1])
    state[name] = state[name].transpose(0, 1)


def add_names(state, chance):
    for i in range(chance.choice((1, 50))):
        state[f"{chance.choice(sorted(state))}.{i}"] = torch.zeros(3)


def remove(state, chance):
    for name in chance.sample(sorted(state), chance.choice((1, 5))):
        del state[name]


def unfold(state, chance):
    name = chance.choice(sorted(state))
    state[name] = torch.zeros(1).expand(*([10**6] * chance.choice((1, 2, 3))))


def share(state, chance):
    large = max(state.values(), key=torch.Tensor.numel)
    for name in list(state):
        state[name] = large


def make_odd(state, chance):
    name = chance.choice(sorted(state))
    state[name] = chance.choice(
        (
            torch.zeros((), dtype=torch.int64),
            torch.full_like(state[name], float("nan")),
            torch.zeros(3).to_sparse(),
            torch.zeros(0),
            torch.empty(3, device="meta"),
            torch.zeros(2, dtype=torch.complex64),
            "text",
            None,
            {},
        )
    )


BYTE_MUTATIONS = (flip_bytes, truncate, insert, repeat_a_part)
STATE_MUTATIONS = (swap_shapes, transpose, add_names, remove, unfold, share, make_odd)


def bomb(path, chance):
    """An archive that unfolds into 512 MiB."""
    zeros = io.BytesIO()
    torch.save({"net.0.main.0.weight": torch.zeros(2**27)}, zeros)
    with zipfile.ZipFile(zeros) as sound, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in sound.infolist():
            archive.writestr(entry.filename, sound.read(entry))


def repeated_arrays(path, chance):
    """A pickle that makes a thousand arrays of the same bytes."""
    data = b"\0" * 2**20
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    dtype = (
        b"cnumpy\ndtype\n"
        + short("f4")
        + b"\x85R(K\x03"
        + short("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    state = b"(K\x01J" + struct.pack("<i", 2**18) + b"\x85" + dtype + b"\x89h\x01tb"
    arrays = b"".join(short(f"m{i}") + b"}" + short("w") + reconstruct + state + b"ss" for i in range(1000))
    memo = b"B" + struct.pack("<I", len(data)) + data + b"q\x010"
    path.write_bytes(b"\x80\x03" + memo + b"}" + short("params") + b"}" + arrays + b"}\x86s.")


def mutated_files(folder, count, seed=0):
    """Writes files one after the other; gives what was done, the file, and the converter's option for it."""
    chance = random.Random(seed)
    sources = {
        "--unet": original_files.write_unet(folder / "unet.ckpt", "tiny-64"),
        "--autoencoder": original_files.write_autoencoder(folder / "autoencoder.ckpt", "kl-f8-tiny"),
        "--cloob": original_files.write_cloob(folder / "cloob.pkl", "tiny"),
    }
    training = original_files.write_training_checkpoint(folder / "training.ckpt", "tiny-64", "tiny", "kl-f8-tiny")
    trace, number = folder / "trace", 0

    def name(suffix):
        nonlocal number
        number += 1
        return folder / f"mutated-{number}{suffix}"

    for opcode, data in hostile_pickles(trace).items():
        path = name(".pkl")
        path.write_bytes(data)
        yield f"{opcode} in a pickle", path, "--cloob"
        path = name(".ckpt")
        as_torch_file(data, path)
        yield f"{opcode} in a PyTorch file", path, "--unet"
    for what, data in BOMBS.items():
        path = name(".pkl")
        path.write_bytes(data)
        yield f"the bomb {what} in a pickle", path, "--cloob"
        path = name(".ckpt")
        as_torch_file(data, path)
        yield f"the bomb {what} in a PyTorch file", path, "--unet"
    for make, option in ((bomb, "--unet"), (repeated_arrays, "--cloob")):
        path = name(".ckpt")
        make(path, chance)
        yield make.__name__, path, option
    while number < count:
        option = chance.choice(sorted(sources))
        source = training if option == "--unet" and chance.random() < 0.3 else sources[option]
        path = name(source.suffix)
        if option == "--cloob" or source is training or chance.random() < 0.5:
            mutate = chance.choice(BYTE_MUTATIONS)
            path.write_bytes(mutate(bytearray(source.read_bytes()), chance))
        else:
            mutate = chance.choice(STATE_MUTATIONS)
            state = torch.load(source, weights_only=True) if option == "--unet" else None
            state = state or original_files.autoencoder_state("kl-f8-tiny", with_loss=False)
            mutate(state, chance)
            torch.save(state, path)
        yield f"{mutate.__name__} of {source.name}", path, option


# Trying them


def try_file(path, option, output):
    """Inspects and converts a file in a fork; gives exit status, output, and peak memory in bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        status = 99
        try:
            status = main(["inspect", str(path)])
            scale = ["--autoencoder-scale", "2"] if option == "--autoencoder" else []
            status = max(status, main(["convert", option, str(path), *scale, "--output", str(output)]))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        printed = pipe.read()
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), printed, usage.ru_maxrss * 1024


def warm_up(folder):
    """Converts sound files in this process, so that its forks have all code in memory already."""
    folder.mkdir()
    unet = original_files.write_unet(folder / "unet.ckpt", "tiny-64")
    cloob = original_files.write_cloob(folder / "cloob.pkl", "tiny")
    autoencoder = original_files.write_autoencoder(folder / "autoencoder.ckpt", "kl-f8-tiny")
    files = ["--unet", unet, "--cloob", cloob, "--autoencoder", autoencoder, "--output", folder / "out"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = main(["convert", *map(str, files)])
    if status != 0:
        raise RuntimeError("Sound files do not convert.")
    shutil.rmtree(folder)


def complaints(folder, count, seed=0):
    """Complaints about how files were handled, and the number of files by outcome."""
    torch.set_num_threads(1)
    output, found, ends = folder / "out", [], collections.Counter()
    warm_up(folder / "sound")
    _, _, idle = try_file(folder / "missing file", "--autoencoder", output)
    for what, path, option in tqdm(mutated_files(folder, count, seed), total=count, unit="file"):
        size = path.stat().st_size
        status, printed, memory = try_file(path, option, output)
        ends[status] += 1
        wrong = []
        if status not in (0, 2):
            wrong.append(f"ended with {status}")
        if "Traceback" in printed:
            wrong.append("traceback")
        if (folder / "trace").exists():
            wrong.append("code was run")
            (folder / "trace").rmdir()
        if status == 2 and (output.exists() or list(folder.glob(".*"))):
            wrong.append("something was left behind")
        if memory > idle + 2 * size + FIXED_MEMORY:
            wrong.append(f"{(memory - idle) / 2**20:.0f} MiB for {size / 2**20:.1f}")
        if wrong:
            found.append(f"{what}: {'; '.join(wrong)}\n{printed[-2000:]}")
        shutil.rmtree(output, ignore_errors=True)
        path.unlink()
    return found, ends


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="number of files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found, ends = complaints(Path(temporary), args.count, args.seed)
    print("\n".join(found))
    print(f"{sum(ends.values())} files: {ends[2]} refused, {ends[0]} converted; complaints: {len(found)}")
    sys.exit(bool(found))
