"""Fetches photographs out of packages of PyPI and Debian, into a folder.

    python benchmarks/photographs.py photographs/

Nothing of it is kept in this repository. Wants `apt-get` with Debian's list of packages (``apt-get update``).
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ON_PYPI = {
    "foolbox==3.3.4": ["foolbox/data/imagenet_*.jpg"],
    "ultralytics==8.4.190": ["ultralytics/assets/*.jpg"],
}
"""Wheels, and which of their files are photographs."""

ON_DEBIAN = {
    "darknet": [
        f"usr/share/darknet/data/{name}.jpg" for name in ("dog", "eagle", "giraffe", "kite", "person")
    ],
    "mate-backgrounds": ["usr/share/backgrounds/mate/nature/*.jpg"],
    "opencv-doc": [
        f"usr/share/doc/opencv-doc/examples/data/{name}.jpg"
        for name in (
            *("aero1", "aloeL", "apple", "baboon", "board", "building", "butterfly", "fruits", "home"),
            *("left01", "leuvenA", "licenseplate_motion", "messi5", "orange", "squirrel_cls", "stuff"),
        )
    ],
}
"""The same for Debian's packages: no drawings, no scene twice."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        here.chmod(0o755)  # apt-get downloads as a user of its own
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", name, *ON_PYPI], check=True)
        for wheel in here.glob("*.whl"):
            shutil.unpack_archive(wheel, here, "zip")
        subprocess.run(["apt-get", "download", *ON_DEBIAN], cwd=here, check=True)
        for package in here.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, here], check=True)
        count = 0
        for pattern in itertools.chain(*ON_PYPI.values(), *ON_DEBIAN.values()):
            found = list(here.glob(pattern))
            if not found:
                raise SystemExit(f"{pattern} is in none of the packages any more")
            for file in found:
                shutil.copy(file, folder)
            count += len(found)
    print(f"{count} photographs in {folder}")


if __name__ == "__main__":
    main()
