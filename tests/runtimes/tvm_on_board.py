"""Runs on an emulated board: TVM's bundles beside what the oracle made of them on the host."""

import sys
from pathlib import Path

import numpy as np

import runtimes


def main() -> None:
    for folder in sorted(Path().glob("bundle-*")):
        runtime = folder.name.removeprefix("bundle-").partition(".")[0]
        expected = dict(np.load(folder / "oracle.npz"))
        images = expected.pop("images")
        session = runtimes.adapter(runtime).load(folder, 2)
        found = session.tensors(images)
        if found.keys() != expected.keys():
            sys.exit(f"{folder}: other tensors: {found.keys() ^ expected.keys()}")
        for name, values in expected.items():
            if not np.array_equal(found[name], values):
                sys.exit(f"{folder}: {name} differs")
        if not np.array_equal(session.run(images), expected["output"]):
            sys.exit(f"{folder}: the output differs")
        print(folder.name)


main()
