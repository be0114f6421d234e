"""Spaces that come with the library, as YAML files, and reading of the user's own."""

import re
from importlib.resources import files
from typing import Any

from sparkwright import storage
from sparkwright.errors import InputError, NotFoundError, did_you_mean

__all__ = ["NAMES", "read"]

NAMES = ("head", "linear", "mlp", "finetuning")


def read(source: str) -> Any:
    """Return what a file of YAML or JSON says, or a space of the library by its name.

    Raises:
        NotFoundError: There is no such file.
        InputError: It is not YAML.
    """
    if source in NAMES:
        return _parsed(files(__name__).joinpath(f"{source}.yaml").read_text(encoding="utf-8"), source)
    uri = storage.to_uri(source)
    if not storage.exists(uri):
        raise NotFoundError(
            f"There is no space {source!r}: no such file, and the library's own are {', '.join(NAMES)}."
            + did_you_mean(source, NAMES)
        )
    try:
        text = storage.read_bytes(uri).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"The space {source!r} is not text in UTF-8.") from None
    return _parsed(text, source)


def _parsed(text: str, source: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML that takes 1e-4 for a number, as everybody does who writes it, and no name twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [name for number, name in enumerate(names) if name in names[:number]]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise InputError(f"The space {source!r} is not YAML: {error}") from None


_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
