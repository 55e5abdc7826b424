"""Files and folders, on the local disk or behind any ``pyarrow.fs`` URI."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from emi_ray.corpus.encodings import decode
from emi_ray.errors import EmiRayError, UserError
from emi_ray.reachability import require_in_reach
from emi_ray.schema import MEDIA_COLUMNS
from emi_ray.storage import StorageError, explain, is_outage, open_uri, without_credentials


def is_uri(path: str) -> bool:
    return "://" in path


def absolute(path: str) -> str:
    """Return a local path as an absolute path; a URI is unchanged."""
    return path if is_uri(path) else str(open_uri(path)[1])


def join(folder: str, relative: str) -> str:
    """Return the path of ``relative`` in an absolute ``folder``. In a URI it is quoted and inserted before ``?``."""
    if not is_uri(folder):
        return posixpath.normpath(posixpath.join(folder, relative))
    scheme, _, rest = folder.partition("://")
    path, question, query = rest.partition("?")
    inner = posixpath.normpath(posixpath.join(path, quote(relative)))
    return f"{scheme}://{inner}{question}{query}"


def join_all(folder: str, paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Make each of ``paths`` absolute: relative paths start at ``folder``; URIs are unchanged."""
    if is_uri(folder):
        joined = [path if path is None or is_uri(path) else join(folder, path) for path in paths.to_pylist()]
        return pa.chunked_array([pa.array(joined, pa.string())])
    # Arrow's kernels are used here, because a corpus may have millions of paths.
    ready = pc.or_(pc.starts_with(paths, "/"), pc.match_substring(paths, "://"))
    paths = pc.if_else(ready, paths, pc.binary_join_element_wise(folder.rstrip("/"), paths, "/"))
    # Normalising a path in Python is slow, so only paths with "//", "/./" or "/../" are normalised.
    dotted = pc.and_(
        pc.match_substring_regex(paths, r"/\.{0,2}/"), pc.invert(pc.match_substring(paths, "://"))
    )
    if not pc.any(dotted).as_py():
        return paths
    normal = [posixpath.normpath(path) for path in paths.filter(dotted).to_pylist()]
    return pc.replace_with_mask(
        paths.combine_chunks(), pc.fill_null(dotted, False).combine_chunks(), pa.array(normal)
    )


def kind_of(path: str) -> fs.FileType:
    """Return whether there is a file, a folder or nothing.

    Raises:
        UserError: it is a pipe, socket or device: reading it could block, and works only once.
    """
    filesystem, inner = _reached(path)
    kind = filesystem.get_file_info(inner).type
    if kind == fs.FileType.Unknown:
        raise UserError(f"{path} is a pipe, socket or device. Write its content to a file, and give that.")
    return kind


def list_folder(folder: str) -> dict[str, bool]:
    """Return the names in a folder, each with whether it is a folder; empty if the folder does not exist.

    Names may not be valid text (:func:`is_text`).

    Raises:
        UserError: the folder cannot be listed.
    """
    filesystem, inner = _reached(folder)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            with os.scandir(inner) as entries:
                return {entry.name: entry.is_dir() for entry in entries if _leads_somewhere(entry)}
        infos = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _failure(error, f"{folder} cannot be listed") from None
    return {info.base_name: info.type == fs.FileType.Directory for info in infos}


def is_text(name: str) -> bool:
    """Return whether a file's name is UTF-8 text.

    Unix file systems allow any bytes, but tables and messages do not.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def walk(folder: str) -> list[str]:
    """Return the paths, relative to the folder, of all files in it and below it, sorted, without hidden ones.

    Paths may not be valid text (:func:`is_text`).
    """
    filesystem, inner = _reached(folder)
    if isinstance(filesystem, fs.LocalFileSystem):
        return sorted(_walk_local(inner))
    start = len(inner.rstrip("/")) + 1
    infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    names = (info.path[start:] for info in infos if info.type == fs.FileType.File)
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def _walk_local(folder: str) -> Iterator[str]:
    """Yield files like :func:`walk`. Links are followed, except to a folder that contains them."""
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inside = (name for name in folders if not name.startswith("."))
        # os.walk descends into what is left in this list, so it is changed in place.
        folders[:] = [name for name in inside if not _holds(os.path.join(place, name), real)]
        there = (
            name for name in names if not name.startswith(".") and os.path.isfile(os.path.join(place, name))
        )
        yield from (os.path.relpath(os.path.join(place, name), folder) for name in there)


def _holds(path: str, real: str) -> bool:
    """Return whether ``path`` is a link to a folder that contains the folder ``real``."""
    return os.path.islink(path) and f"{real}/".startswith(f"{os.path.realpath(path).rstrip('/')}/")


def _leads_somewhere(entry: "os.DirEntry[str]") -> bool:
    return not entry.is_symlink() or os.path.exists(entry.path)


def nothing_at(path: str) -> str:
    """Return why there is nothing at a path, for a message."""
    if not is_uri(path) and os.path.islink(path):
        return (
            f"{path} is a link to {os.readlink(path)}, which does not exist. If git-annex, DVC or the Hugging Face "
            "hub has the content, fetch it first"
        )
    return f"{path}: there is no such file or folder"


def exist(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return whether each absolute path or URI exists; null if the path is null or its folder cannot be listed.

    Each parent folder is listed once, so that a million files in one folder cost one listing.
    """
    split = _split(paths)
    known: list[str] = []
    unlisted: list[str] = []
    # Grouping without aggregates returns the distinct folders.
    for place in split.select(["parent", "query"]).group_by(["parent", "query"]).aggregate([]).to_pylist():
        parent = place["parent"]
        if parent is None:
            continue
        try:
            names = list_folder(f"{parent or '/'}{place['query']}")
        except UserError:
            unlisted.append(parent)
        else:
            known.extend(f"{parent}/{name}" for name in names if is_text(name))
    found = pc.is_in(
        pc.binary_join_element_wise(split["parent"], split["name"], "/"), pa.array(known, pa.string())
    )
    unknown = pc.or_(pc.is_null(paths), pc.is_in(split["parent"], pa.array(unlisted, pa.string())))
    return pc.if_else(unknown, pa.scalar(None, pa.bool_()), found)


def _split(paths: pa.ChunkedArray) -> pa.Table:
    """Return ``parent``, ``name`` (of a URI: unquoted) and ``query`` (of a URI: from ``?``) of each path."""
    remote = pc.match_substring(paths, "://")
    query = pa.repeat("", len(paths))
    if any_uri := bool(pc.any(remote).as_py()):
        query = pc.if_else(remote, pc.replace_substring_regex(paths, r"(?s)^[^?]*", ""), query)
        paths = pc.if_else(remote, pc.replace_substring_regex(paths, r"(?s)\?.*$", ""), paths)
    parts = pc.extract_regex(paths, r"(?s)^(?P<parent>.*)/(?P<name>[^/]*)$")
    names = pc.struct_field(parts, "name")
    if any_uri:
        unquoted = pa.array([name and unquote(name) for name in names.to_pylist()], pa.string())
        names = pc.if_else(remote, unquoted, names)
    return pa.table({"parent": pc.struct_field(parts, "parent"), "name": names, "query": query})


def read_texts(paths: Sequence[str], encoding: str | None = None, num_threads: int = 16) -> list[str]:
    """Return the contents of text files, without surrounding white space.

    Args:
        encoding: encoding of files that are not Unicode; see :func:`~emi_ray.corpus.encodings.decode`.

    Raises:
        UserError: a file cannot be read, or is not text in a known encoding.
    """

    def read(path: str) -> str | UserError:
        try:
            return decode(read_buffer(path).to_pybytes(), path, encoding).strip()
        except UserError as error:
            return error

    with ThreadPoolExecutor(num_threads) as threads:
        texts = list(threads.map(read, paths))
    if errors := [text for text in texts if isinstance(text, UserError)]:
        more = f" ({len(errors) - 1:,} other files have problems too.)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{more}")
    return [text for text in texts if isinstance(text, str)]


def read_buffer(path: str) -> pa.Buffer:
    """Read a whole file.

    Raises:
        UserError: the file does not exist or cannot be read.
        StorageError: the storage cannot be reached.
    """
    filesystem, inner = _reached(path)
    if isinstance(filesystem, fs.LocalFileSystem):
        kind_of(path)
    try:
        with filesystem.open_input_file(inner) as stream:
            return stream.read_buffer()
    except OSError as error:
        raise _failure(error, f"{path} cannot be read") from None


def refuse_credentials(clips: pa.Table) -> None:
    """Check that no media URI contains credentials, which would be stored and shown.

    Raises:
        UserError: a clip has such a URI; the message names the first one.
    """
    for name in set(MEDIA_COLUMNS) - {"transcript"} & set(clips.column_names):
        suspects = clips.filter(pc.match_substring(clips[name].cast(pa.string()), "@"))
        for clip_id, path in zip(suspects["clip_id"].to_pylist(), suspects[name].to_pylist(), strict=True):
            if (plain := without_credentials(path)) != path:
                raise UserError(
                    f"Clip {clip_id}, {name}: {plain} has credentials in its URI. Remove them, and set them in the "
                    f"environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or use the machine's role."
                )


def _reached(path: str) -> tuple[fs.FileSystem, str]:
    """Call :func:`~emi_ray.storage.open_uri`, and check that the storage can be reached."""
    filesystem, inner = open_uri(path)
    require_in_reach(filesystem, inner, path)
    return filesystem, inner


def _failure(error: OSError, what: str) -> EmiRayError:
    kind = StorageError if is_outage(error) else UserError
    return kind(f"{without_credentials(what)}: {explain(error).rstrip('.')}. Check the path and your access.")
