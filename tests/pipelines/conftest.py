"""What the pipeline's tests share: limits, documents of every kind, and a small Ray where one is asked for."""

import io
import os

# Ray reads it when imported, and what it does without depends on a file in the home folder.
os.environ["RAY_AUTH_MODE"] = "disabled"

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas

from pipelines.parser_child import ParserLimits

OBJECT_STORE_BYTES = 150 * 1024**2


@pytest.fixture
def limits() -> ParserLimits:
    return ParserLimits(
        file_bytes_max=1_000_000, text_characters_max=500_000, parse_seconds_max=30.0, memory_bytes_max=2 * 1024**3
    )


@pytest.fixture
def make_pdf() -> Callable[..., bytes]:
    """A PDF of the given pages, with a bookmark a page where titles are given, encrypted where a password is."""

    def make(*pages: str, titles: tuple[str, ...] = (), password: str | None = None) -> bytes:
        drawn = io.BytesIO()
        canvas = Canvas(drawn)
        for number, text in enumerate(pages):
            if titles:
                canvas.bookmarkPage(str(number))
                canvas.addOutlineEntry(titles[number], str(number), 0)
            canvas.drawString(72, 720, text)
            canvas.showPage()
        canvas.save()
        if password is None:
            return drawn.getvalue()
        writer = PdfWriter(clone_from=PdfReader(drawn))
        writer.encrypt(password, algorithm="RC4-128")
        locked = io.BytesIO()
        writer.write(locked)
        return locked.getvalue()

    return make


@pytest.fixture(scope="module")
def local_ray() -> Iterator[str]:
    """A Ray of this module's own, on two CPUs; its address."""
    folder = Path(tempfile.mkdtemp(prefix="or-", dir="/tmp"))
    with warnings.catch_warnings():
        # LanceDB, once imported, warns of every fork; Ray's start forks.
        warnings.simplefilter("ignore")
        context = ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(folder),
        )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
