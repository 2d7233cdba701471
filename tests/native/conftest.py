import pytest

from gpt2.errors import BackendError
from gpt2.native.library import Library


@pytest.fixture
def library() -> Library:
    try:
        return Library.load()
    except BackendError as error:
        pytest.skip(str(error))


def levels() -> list[str]:
    """What this machine can run; one name that skips where nothing was built."""
    try:
        return list(Library.load().levels)
    except BackendError:
        return ["portable"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "level" in metafunc.fixturenames:
        metafunc.parametrize("level", levels())
