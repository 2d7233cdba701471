import inspect
import re
from pathlib import Path

from gpt2 import errors


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert errors.__doc__ is not None
    drawn = [
        re.sub(r"[│├└─]", " ", line) for line in errors.__doc__.splitlines() if re.search(r"[├└]── |Gpt2Error$", line)
    ]
    parent_at: dict[int, str] = {}
    names: list[str] = []
    for line in drawn:
        name, *builtin = re.findall(r"\w+Error\b", line)[:2]
        depth = len(line) - len(line.lstrip())
        above = [parent_at[at] for at in sorted(parent_at) if at < depth]
        bases = {base.__name__ for base in getattr(errors, name).__bases__}
        wanted = {above[-1] if above else "Exception", *(builtin if "(" in line else ())}
        assert bases == wanted, name
        parent_at = {at: parent for at, parent in parent_at.items() if at < depth} | {depth: name}
        names.append(name)
    assert sorted(names) == sorted(name for name, _ in inspect.getmembers(errors, inspect.isclass))


def test_how_to_install_an_extra_is_said_in_one_place() -> None:
    sources = Path(errors.__file__).parent.rglob("*.py")
    hints = [file.name for file in sources if "pip install 'gpt2kit[" in file.read_text(encoding="utf-8")]
    assert hints == ["errors.py"]
