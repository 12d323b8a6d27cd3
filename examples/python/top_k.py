"""Print the likeliest classes of images: python examples/python/top_k.py BUNDLE IMAGE…"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from msq.preprocessing import normalise
from runtimes.native import NativeSession

K = 5

bundle, *paths = map(Path, sys.argv[1:])
manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
spec, labels = manifest["input"], manifest["labels"]
session = NativeSession(bundle)
for path in paths:
    picture = Image.open(path).convert("L" if spec["channels"] == 1 else "RGB").resize((spec["width"], spec["height"]))
    pixels = np.asarray(picture).reshape(1, spec["height"], spec["width"], spec["channels"])
    scores = session.run(normalise(pixels, spec["mean"], spec["std"])).ravel()
    for index in np.argsort(-scores, kind="stable")[:K]:
        print(path, labels[index], f"{scores[index]:.6g}")
