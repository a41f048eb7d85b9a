"""One layer's tar into a directory, as overlayfs wants it. The archive is taken for hostile.

- A name is followed as a process chrooted to the directory would (openat2, RESOLVE_IN_ROOT); a name with
  ``..`` is refused.
- ``.wh.x`` becomes a character device 0/0, ``.wh..wh..opq`` the attribute trusted.overlay.opaque. Whiteouts
  speak of lower layers only: what the same layer holds under that name stays. Devices 0/0 in the archive
  itself are refused.
- Attributes kept: user.* and security.capability. All others (labels, overlayfs' own) belong to the machine
  that packed.
- A layer is unpacked alone, as by Docker's overlay2: a hard link to a file of a lower layer is refused.
- The last of several entries of one name wins. Owner, mode and times of directories are set at the end, so
  that neither set-group-ID bits nor default ACLs nor missing write permission influence what is put in them.
  The umask never matters.

Source: OCI image-spec, layer.md; overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from ..drivers.paths import open_in_root
from ..errors import KernelError
from .tarstream import Entry, Kind, TarReader

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
_AUFS_PREFIX = b".wh..wh."

MAX_LAYER_BYTES = 64 << 30  # of content, holes included: a file of 8 EiB may hold nothing
MAX_ENTRIES = 2_000_000
MAX_DEVICES = 1024  # a complete old static /dev has a few hundred
_MAX_REMEMBERED = 256 << 20  # bytes of names and attributes that directories get at the end
MAX_DEPTH = 255  # so that all who walk a tree with one fd or stack frame a level can do so

_CACHED_PARENTS = 64
_NO_NAME = (b"", b".", b"..")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NODE_TYPE = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}
# What an archive can provoke; every other error is the machine's.
_CONTENT_ERRNOS = frozenset(
    {
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.EINVAL),
        *(errno.EEXIST, errno.EMLINK, errno.EFBIG, errno.E2BIG, errno.ERANGE),
    }
)


def is_kept_xattr(name: bytes) -> bool:
    """Whether an extended attribute is content, which travels with a layer."""
    return name == b"security.capability" or (
        name.startswith(b"user.") and not name.startswith(b"user.overlay.")
    )


class Terms(NamedTuple):
    """What of a tree is content, where it is no layer.

    keeps: which extended attributes. max_bytes: of all files together. any_device: also those that are
    whiteouts to an overlay.
    """

    keeps: Callable[[bytes], bool] = is_kept_xattr
    max_bytes: int = MAX_LAYER_BYTES
    any_device: bool = False


def _is_volume_xattr(name: bytes) -> bool:
    return name == b"security.capability" or name.startswith((b"user.", b"system.posix_acl_"))


VOLUME = Terms(_is_volume_xattr, max_bytes=1 << 62, any_device=True)
_LAYER = Terms()


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class Entries(Protocol):
    """What a TarReader is, to those who unpack."""

    def __iter__(self) -> Iterator[Entry]: ...
    def copy_to(self, fd: int, size: int) -> None: ...


def unpack_tar(archive: TarReader, root_fd: int) -> None:
    """
    Make all entries of `archive` in the empty directory `root_fd`, which nobody else may reach meanwhile.

    Raises FormatError: the archive is damaged or hostile; KernelError: no space, no permission and the like.
    Either leaves the directory half filled, for the caller to discard.
    """
    _Unpacker(archive, root_fd, is_layer=True).run()


def unpack_tree(archive: Entries, root_fd: int, terms: Terms = _LAYER) -> None:
    """`unpack_tar` of what is no layer, into a directory that may hold files: names beginning with ``.wh.``
    mean nothing, and directories that were there and are not in the archive keep owner, mode and times."""
    _Unpacker(archive, root_fd, is_layer=False, terms=terms).run()


class _Unpacker:
    def __init__(self, archive: Entries, root_fd: int, *, is_layer: bool, terms: Terms = _LAYER) -> None:
        self._archive = archive
        self._terms = terms
        self._is_layer = is_layer
        self._root = root_fd
        self._root_depth = self._depth(root_fd)
        self._parents: dict[bytes, int] = {}
        self._as_written: dict[bytes, int] = {}  # the same, by how the archive writes their names
        self._parents_stale = False
        self._own_ids = (os.geteuid(), os.getegid())  # root's, but in tests
        # What new files have by themselves, unless a directory that was there gives them its group.
        self._made_as = self._own_ids if is_layer else None
        self._directories = {b"": self._unlisted_directory(b"", 0)} if is_layer else {}
        self._devices = 0
        self._content = 0
        self._remembered = 0

    def run(self) -> None:
        entry = self._unlisted_directory(b"", 0)
        try:
            for count, entry in enumerate(self._archive, 1):
                if count > MAX_ENTRIES:
                    raise entry.error(f"is one of more than {MAX_ENTRIES}")
                if self._parents_stale or len(self._parents) > _CACHED_PARENTS:
                    self._forget_parents()  # between entries only: the fds of one in progress stay open
                self._add(entry)
            for path, entry in self._directories.items():
                self._finish_directory(path, entry)
        except OSError as error:
            if error.errno in _CONTENT_ERRNOS:
                raise entry.error(f"cannot be unpacked: {error.strerror}") from error
            raise KernelError(error.errno or 0, f"unpack {os.fsdecode(entry.name)!r}") from error
        finally:
            self._forget_parents()

    def _add(self, entry: Entry) -> None:
        written, _, last = entry.name.rpartition(b"/")
        plain = last not in _NO_NAME and not last.startswith(WHITEOUT_PREFIX)
        if plain and entry.kind is not Kind.DIRECTORY and (known := self._as_written.get(written)):
            self._put(known, last, entry)
            return
        parts = [part for part in entry.name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise entry.error("leads out of the archive by '..'")
        if not parts:
            if entry.kind is not Kind.DIRECTORY:
                raise entry.error("would replace the root directory")
            self._remember(b"", entry)
            return
        if self._is_layer and WHITEOUT_PREFIX in entry.name and self._is_marker(parts, entry):
            return
        name = parts.pop()
        path = b"/".join(parts)
        parent = self._parent(path, entry)
        if entry.kind is Kind.DIRECTORY:
            self._make_directory(parent, name)
            self._remember(b"/".join((path, name)) if path else name, entry)
            return
        if plain:
            self._as_written[written] = parent
        self._put(parent, name, entry)

    def _put(self, parent: int, name: bytes, entry: Entry) -> None:
        try:
            self._add_node(parent, name, entry)
        except FileExistsError:
            self._remove(parent, name)
            self._add_node(parent, name, entry)

    # --- kinds of entries -----------------------------------------------------------------------------------

    def _add_node(self, parent: int, name: bytes, entry: Entry) -> None:
        if entry.kind is Kind.FILE:
            self._add_file(parent, name, entry)
            return
        if entry.kind is Kind.HARDLINK:
            self._add_hard_link(parent, name, entry)
            return
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        else:
            self._check_device(entry)
            os.mknod(name, _NODE_TYPE[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=parent)
        if (entry.uid, entry.gid) != self._made_as:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _add_file(self, parent: int, name: bytes, entry: Entry) -> None:
        self._content += entry.size
        if self._content > self._terms.max_bytes:
            raise entry.error(f"ends beyond {self._terms.max_bytes} bytes of content")
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            self._archive.copy_to(fd, entry.size)
            self._set_attributes(fd, entry)
        finally:
            os.close(fd)

    def _set_attributes(self, fd: int, entry: Entry) -> None:
        if (entry.uid, entry.gid) != self._made_as:
            os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)  # after chown, which clears set-user-ID
        for name, value in entry.xattrs:
            if self._terms.keeps(name):
                os.setxattr(fd, name, value)  # after chown, which clears capabilities
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _add_hard_link(self, parent: int, name: bytes, entry: Entry) -> None:
        parts = [part for part in entry.link.split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts:
            raise entry.error(
                f"is a hard link to {os.fsdecode(entry.link)!r}, which is no file of this archive"
            )
        target = parts.pop()
        try:
            directory = open_in_root(self._root, b"/".join(parts) or b".", os.O_PATH | os.O_DIRECTORY)
            try:
                self._link(directory, target, parent, name)
            finally:
                os.close(directory)
        except FileNotFoundError:
            raise entry.error(
                f"is a hard link to {os.fsdecode(entry.link)!r}, which is not in this layer, or only later"
            ) from None

    def _link(self, directory: int, target: bytes, parent: int, name: bytes) -> None:
        source = os.stat(target, dir_fd=directory, follow_symlinks=False)
        if is_whiteout(source):
            raise FileNotFoundError
        if stat.S_ISDIR(source.st_mode):
            raise IsADirectoryError(errno.EISDIR, "its target is a directory")
        try:
            os.link(target, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if not os.path.samestat(source, os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise

    def _check_device(self, entry: Entry) -> None:
        if entry.kind is Kind.FIFO:
            return
        if entry.kind is Kind.CHAR and entry.device == (0, 0) and not self._terms.any_device:
            raise entry.error("is a character device 0/0, which would hide a file: archives say so by '.wh.'")
        self._devices += 1
        if self._devices > MAX_DEVICES:
            raise entry.error(f"is one of more than {MAX_DEVICES} devices")

    def _is_marker(self, parts: list[bytes], entry: Entry) -> bool:
        """Whether the entry is no file but a mark; it has been dealt with then."""
        *above, name = parts
        if any(part.startswith(_AUFS_PREFIX) and part != OPAQUE_MARKER for part in parts):
            return True  # aufs' own records, of no use to others
        if any(part.startswith(WHITEOUT_PREFIX) for part in above):
            raise entry.error("is inside a whiteout")
        if not name.startswith(WHITEOUT_PREFIX):
            return False
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden in (b"", b".", b".."):
            raise entry.error("is a whiteout of nothing")
        if name == OPAQUE_MARKER and not above:
            raise entry.error("the root directory cannot be opaque: start the image from this layer instead")
        parent = self._parent(b"/".join(above), entry)
        if name == OPAQUE_MARKER:
            self._set_opaque(f"/proc/self/fd/{parent}")
        else:
            self._add_whiteout(parent, hidden)
        return True

    def _add_whiteout(self, parent: int, hidden: bytes) -> None:
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self._set_opaque(f"/proc/self/fd/{parent}/{os.fsdecode(hidden)}")

    # --- directories ----------------------------------------------------------------------------------------

    def _parent(self, path: bytes, entry: Entry) -> int:
        """The directory at `path`, made with those above it where missing, open until the next entry."""
        fd = self._parents.get(path)
        if fd is None:
            try:
                fd = self._open_parent(path)
            except (FileNotFoundError, NotADirectoryError):
                fd = self._make_parents(path, entry)
            self._parents[path] = fd
        return fd

    def _open_parent(self, path: bytes) -> int:
        fd = open_in_root(self._root, path or b".", os.O_PATH | os.O_DIRECTORY)
        if self._depth(fd) - self._root_depth > MAX_DEPTH:
            os.close(fd)
            raise OSError(errno.ENAMETOOLONG, f"more than {MAX_DEPTH} directories deep")
        return fd

    def _make_parents(self, path: bytes, entry: Entry) -> int:
        parts = path.split(b"/")
        fd = self._open_parent(b"")
        for depth, name in enumerate(parts, 1):
            above, prefix = fd, b"/".join(parts[:depth])
            try:
                fd = self._open_parent(prefix)
            except (FileNotFoundError, NotADirectoryError):
                self._make_missing(above, name)
                self._remember(prefix, self._unlisted_directory(prefix, entry.mtime_ns))
                fd = self._open_parent(prefix)
            finally:
                os.close(above)
        return fd

    def _remember(self, path: bytes, entry: Entry) -> None:
        kept = tuple(attribute for attribute in entry.xattrs if self._terms.keeps(attribute[0]))
        self._directories[path] = entry._replace(name=path, xattrs=kept)
        self._remembered += len(path) + sum(len(name) + len(value) for name, value in kept)
        if self._remembered > _MAX_REMEMBERED:
            raise entry.error(f"is a directory beyond {_MAX_REMEMBERED} bytes of names and attributes")

    def _unlisted_directory(self, path: bytes, mtime_ns: int) -> Entry:
        return Entry(path, Kind.DIRECTORY, 0o755, *self._own_ids, mtime_ns)

    def _make_missing(self, parent: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise NotADirectoryError(
                    errno.ENOTDIR, f"{os.fsdecode(name)!r} on its way is no directory"
                ) from None
            self._make_directory(parent, name)

    def _make_directory(self, parent: int, name: bytes) -> None:
        """A directory `name`; one that is there stays, all else gives way."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            return
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(there.st_mode):
            return
        self._remove(parent, name)
        os.mkdir(name, 0o700, dir_fd=parent)
        if is_whiteout(there):  # hidden below and made anew: nothing of what was below may show
            self._set_opaque(f"/proc/self/fd/{parent}/{os.fsdecode(name)}")

    def _finish_directory(self, path: bytes, entry: Entry) -> None:
        try:
            fd = open_in_root(self._root, path or b".", _DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # a later entry took its place
            raise
        try:
            self._set_attributes(fd, entry)
        finally:
            os.close(fd)

    def _remove(self, parent: int, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            shutil.rmtree(os.fsdecode(name), dir_fd=parent)
        self._parents_stale = True  # one may have led through what is gone

    def _forget_parents(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        self._as_written.clear()
        self._parents_stale = False

    @staticmethod
    def _depth(directory_fd: int) -> int:
        return os.readlink(f"/proc/self/fd/{directory_fd}").count("/")

    @staticmethod
    def _set_opaque(path: str) -> None:
        os.setxattr(path, OPAQUE_XATTR, b"y")
