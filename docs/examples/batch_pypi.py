"""Makes a batch of 20 jobs: the own test suites of 20 small, well-known Python packages, each in a sandbox of its own.

    scripts/sandbox-image pytest                       # the image: Python, pytest, nothing else
    python docs/examples/batch_pypi.py pypi/           # downloads the source distributions, writes pypi/jobs.jsonl
    remote-env batch run pypi/jobs.jsonl --out pypi/results
    remote-env batch report pypi/results

The packages' versions and files are pinned: 19 pass, and polib fails, whose test_is_file asks whether descriptor 1 is a regular
file, which under pytest it is. The sandboxes have no network. Nothing of a package runs on this machine, the download included,
for which pip would otherwise call each package's build backend.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = "remote-env/pytest:latest"


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str
    arguments: str = ""  # what its suite needs beside pytest itself

    @property
    def id(self) -> str:
        return f"{self.name}-{self.version}"


PACKAGES = (
    Package("arpeggio", "2.0.2", "c790b2b06e226d2dd468e4fbfb5b7f506cec66416031fde1441cf1de2a0ba700"),
    Package("cachetools", "5.5.2", "1a661caa9175d26759571b2e19580f9d6393969e5dfca11fdb1f947a23e640d4"),
    Package("click", "8.1.8", "ed53c9d8990d83c2a27deae68e4ee337473f6330c040a31d4225c9574d16096a"),
    Package("decorator", "5.2.1", "65f266143752f734b0a7cc83c46f4618af75b8c5911b00ccb61d0ac9b6da0360", "tests/test.py"),
    Package("idna", "3.10", "12f65c9b470abda6dc35cf8e63cc574b1c52b11df2c86030af0ac09b01b13ea9"),
    Package("inflection", "0.5.1", "1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417"),
    Package("jmespath", "1.0.1", "90261b206d6defd58fdd5e85f478bf633a2901798906be2ad389150c5c60edbe"),
    Package("parse", "1.20.2", "b41d604d16503c79d81af5165155c0b20f6c8d6c559efa66b4b695c3e5a0a0ce"),
    Package("pathspec", "0.12.1", "a482d51503a1ab33b1c67a6c3813a26953dbdc71c31dacaef9a838c4e29f5712"),
    Package("pluggy", "1.6.0", "7dcc130b76258d33b90f61b658791dede3486c3e6bfb003ee5c9bfb396dd22f3"),
    Package("polib", "1.2.0", "f3ef94aefed6e183e342a8a269ae1fc4742ba193186ad76f175938621dbfc26b", "tests/tests.py"),
    Package("pyasn1", "0.6.1", "6f580d2bdd84365380830acf45550f2511469f673cb4a5ae3857a3170128b034"),
    Package("semver", "3.0.4", "afc7d8c584a5ed0a11033af086e8af226a9c0b206f313e0301f8dd7b6b589602", "-o addopts= tests"),
    Package("six", "1.17.0", "ff70335d468e7eb6ec65b95b99d3a2836546063f63acc5171de367e834932a81"),
    Package("tabulate", "0.9.0", "0095b12bf5966de529c0feb1fa08671671b3368eec77d7ef7ab114be2c068b3c"),
    Package("text-unidecode", "1.3", "bad6603bb14d279193107714b288be206cac565dfa49aa5b105294dd5c4aab93"),
    Package("tinydb", "4.8.2", "f7dfc39b8d7fda7a1ca62a8dbb449ffd340a117c1206b68c50b1a481fb95181d"),
    Package("toolz", "1.0.0", "2c86e3d9a04798ac556793bced838816296a2f085017664e4995cb40a1047a02"),
    Package("wcwidth", "0.2.13", "72ea0c06399eb286d978fdedb6923a9eb47e1c486ce63e9b4e64fc18303972b5", "-o addopts="),
    Package("xmltodict", "0.14.2", "201e7c28bb210e374999d1dde6382923ab0ed1a8a5faeece48ab525b7810a553"),
)

# pip asks a source distribution's build backend for its name and version. This one stands in for all of them and reads both off
# PKG-INFO, so that no backend has to be installed and no code of the package is run here.
STAND_IN = """
import pathlib
from email.parser import HeaderParser

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    text = pathlib.Path("PKG-INFO").read_text("utf-8")
    found = HeaderParser().parsestr(text)
    info = pathlib.Path(metadata_directory, f"{found['Name'].replace('-', '_')}-{found['Version']}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(text, "utf-8")
    return info.name

class __legacy__:
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"""
BACKENDS = ("setuptools.build_meta", "flit_core.buildapi", "hatchling.build", "poetry.core.masonry.api")


def download(packages: tuple[Package, ...], directory: Path) -> dict[Package, Path]:
    """Their source distributions, checked against their sha256, from the index that pip is set up with; those that are there
    already are kept. Raises subprocess.CalledProcessError; pip has said why on stderr."""
    directory.mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if package.sha256 not in _files(directory)]
    with tempfile.TemporaryDirectory() as temporary:
        for backend in BACKENDS:
            module = Path(temporary, *backend.split(".")).with_suffix(".py")
            for parent in (module.parents[each] for each in range(backend.count("."))):
                parent.mkdir(parents=True, exist_ok=True)
                (parent / "__init__.py").touch()
            module.write_text(STAND_IN)
        requirements = Path(temporary, "requirements.txt")
        requirements.write_text("".join(f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in missing))
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
        options = ["--no-build-isolation", "--use-pep517", "--require-hashes", "--dest", str(directory), "-r", str(requirements)]
        if missing:
            subprocess.run([*pip, *options], check=True, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": temporary})
    found = _files(directory)
    return {package: found[package.sha256] for package in packages}


def _files(directory: Path) -> dict[str, Path]:
    return {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in directory.iterdir() if file.is_file()}


def job(package: Package, source: str) -> dict[str, Any]:
    """One line of the job file. `source` is relative to it."""
    return {
        "id": package.id,
        "image": IMAGE,
        "network": "none",
        "resources": {"memory": "512m"},
        "files": [{"path": "/tmp/source.tar.gz", "source": source}],
        "setup": ["mkdir /src && tar xzf /tmp/source.tar.gz -C /src --strip-components=1"],
        "commands": [
            {
                "name": "tests",
                "command": f"python3 -m pytest -q -p no:cacheprovider --junitxml=/tmp/junit.xml {package.arguments}".strip(),
                "workdir": "/src",
                "env": {"PYTHONPATH": "/src/src:/src"},
                "timeout_s": 300,
            }
        ],
        "artifacts": [{"path": "/tmp/junit.xml", "required": False}],
        "metadata": {"package": package.name, "version": package.version},
    }


def make(directory: Path, packages: tuple[Package, ...] = PACKAGES) -> Path:
    """The job file, with what it needs beside it."""
    sources = download(packages, directory / "sources")
    jobs = directory / "jobs.jsonl"
    lines = [json.dumps(job(package, file.relative_to(directory).as_posix())) for package, file in sources.items()]
    jobs.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return jobs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes a job file of 20 packages' own test suites.")
    parser.add_argument("directory", type=Path)
    made = make(parser.parse_args().directory)
    print(f"{made}: {len(PACKAGES)} jobs")
