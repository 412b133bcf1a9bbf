"""XML by expat, of which nothing may declare anything; what is wrong is named with its place."""

import pathlib
from collections.abc import Callable
from typing import NoReturn
from xml.parsers import expat

from mdnjax.strokes.formats.errors import StrokeFormatError


class Parser:
    """Reports the elements of one file, in the order of the file.

    No document type is accepted, so that no entity is ever defined or expanded.

    Args:
        path: The file that errors name.
        start: Called with the name and the attributes of each element that begins.
        end: Called with the name of each element that ends.
        text: Called with what stands between them.
        namespaces: Whether names are "namespace name" rather than as they are written.
        external: Whether a document type may be named that is declared elsewhere. It is not read.
    """

    def __init__(
        self,
        path: pathlib.Path,
        start: Callable[[str, dict[str, str]], None],
        end: Callable[[str], None] | None = None,
        text: Callable[[str], None] | None = None,
        *,
        namespaces: bool = False,
        external: bool = False,
    ):
        self.path = path
        self.has_doctype = False
        self._external = external
        self._expat = expat.ParserCreate(namespace_separator=" " if namespaces else None)
        self._expat.buffer_text = True
        self._expat.StartElementHandler = start
        self._expat.EndElementHandler = end
        self._expat.CharacterDataHandler = text
        self._expat.StartDoctypeDeclHandler = self._doctype

    @property
    def place(self) -> str:
        """Where it is in the file."""
        return f"line {self._expat.CurrentLineNumber}, column {self._expat.CurrentColumnNumber + 1}"

    def feed(self, data: bytes, *, last: bool = True) -> None:
        """Parses the file, or the next part of it.

        Raises:
            StrokeFormatError: It is not well-formed, or has a document type.
        """
        try:
            self._expat.Parse(data, last)
        except StrokeFormatError:
            raise
        # Besides its own error expat passes on what Python says of an encoding it does not know.
        except (expat.ExpatError, LookupError, ValueError) as error:
            self.fail(f"not well-formed XML ({error})", error)

    def fail(self, reason: str, cause: Exception | None = None) -> NoReturn:
        """Raises the error for the place where it is."""
        raise StrokeFormatError(self.path, self.place, reason) from cause

    def _doctype(self, _name: str, _system: str | None, _public: str | None, inner: int) -> None:
        if not self._external:
            self.fail("a document type definition, refused")
        if inner:
            self.fail("declarations of its own, such as of entities: refused")
        self.has_doctype = True
