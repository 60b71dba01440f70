"""The storage of shards: a local folder, or a bucket reached through fsspec."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import ConfigDict

from opsin.errors import UserError
from opsin.runs.atomic import atomic_path
from opsin.runs.home import real_path
from opsin.runs.regular_file import NotRegularError, check_regular

_CONNECT_S, _READ_S = 5, 30  # seconds for a connection, and for a read without a byte
_ATTEMPTS = 3  # attempts per request
_FIRST_ANSWER_S = 20.0  # seconds for all attempts at the first file, so that a wrong server is reported soon
_LOCAL_ERRORS = (errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(frozen=True)
class StorageOptions:
    """Connection options of a bucket. The service's own environment variables and files replace None.

    There are no keys here: a config is saved with every run, and keys belong in the environment or a profile.

    Attributes:
        endpoint_url: URL of a server other than the service's own (`s3://`, `gs://`).
        region: Region of the bucket (`s3://`).
        profile: Profile of `~/.aws/credentials` (`s3://`).
        anonymous: Send no keys, for public buckets.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False


class Storage(Protocol):
    """Files by name below one place, such as `train/chunk-0-0.bin`. Thread-safe; `str()` is the path a user gave."""

    local: bool
    """Whether the files can be read where they are."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""

    def fetch(self, name: str, target: Path) -> bool:
        """Copy a file to `target` (a local file is not copied); return False if it does not exist."""

    def put(self, file: Path, name: str) -> None:
        """Move a local file here under a name; it appears whole or not at all."""


class LocalStorage:
    """A local folder."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""
        try:
            check_regular(self.root / name)
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except NotRegularError as error:
            raise UserError(f"{self.root / name} cannot be read: {error}.") from None
        except OSError as error:
            raise UserError(f"{self.root / name} cannot be read: {error.strerror}.") from error

    def fetch(self, name: str, target: Path) -> bool:
        """Return whether the file exists; it is read where it is."""
        return (self.root / name).is_file()

    def put(self, file: Path, name: str) -> None:
        """Move a file into the folder; it appears whole or not at all."""
        with atomic_path(self.root / name) as temporary:
            shutil.move(file, temporary)


@dataclass(frozen=True)
class _Service:
    """The service behind one kind of bucket.

    Attributes:
        extra: Extra of Opsin that installs the service's fsspec package.
        keys: What to do if keys are missing or refused, for messages.
        options: Names of the `StorageOptions` that apply.
        arguments: Arguments of its fsspec filesystem that are always passed.
    """

    extra: str
    keys: str
    options: tuple[str, ...] = ("anonymous",)
    arguments: Mapping[str, Any] = field(default_factory=dict)


_SERVICES = {
    "s3": _Service(
        "streaming",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary keys) in the environment,"
        " select a profile of ~/.aws/credentials (datamodule.storage_options.profile=NAME), or set "
        "datamodule.storage_options.anonymous=true if the bucket is public.",
        ("endpoint_url", "region", "profile", "anonymous"),
        {
            "config_kwargs": {
                "connect_timeout": _CONNECT_S,
                "read_timeout": _READ_S,
                "retries": {"max_attempts": _ATTEMPTS, "mode": "standard"},
            }
        },
    ),
    "az": _Service(
        "azure",
        "Set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; for a "
        "public container set AZURE_STORAGE_ACCOUNT_NAME and datamodule.storage_options.anonymous=true.",
        arguments={"connection_timeout": _CONNECT_S, "read_timeout": _READ_S},
    ),
    "gs": _Service(
        "gcs",
        "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, run gcloud auth application-default login, or set "
        "datamodule.storage_options.anonymous=true if the bucket is public.",
        ("endpoint_url", "anonymous"),
    ),
    "memory": _Service("streaming", "", ()),
}


class BucketStorage:
    """A bucket and a prefix in it.

    Args:
        path: `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`, or `memory://bucket/prefix`.
        options: Connection options.

    Raises:
        UserError: The path names no bucket, an option does not apply, or the service's package is not installed.
    """

    local = False

    def __init__(self, path: str, options: StorageOptions) -> None:
        self._scheme, _, inside = path.partition("://")
        self._inside = inside.strip("/")
        self._options = options
        self._service = _SERVICES[self._scheme]
        self._opened: tuple[int, Any] | None = None
        self._answered = False
        if not self._inside:
            raise UserError(f"datamodule.path={path} names no bucket: write {self._scheme}://BUCKET/PREFIX.")
        _check_options(str(self), options, self._service.options)
        with self._explained():
            self._filesystem()

    def __str__(self) -> str:
        return f"{self._scheme}://{self._inside}"

    def __reduce__(self) -> tuple[type["BucketStorage"], tuple[str, StorageOptions]]:
        return BucketStorage, (str(self), self._options)  # connections stay in their process

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, or None if it does not exist.

        Raises:
            UserError: The bucket does not exist, cannot be reached, or refuses the keys.
        """
        with self._explained():
            filesystem = self._filesystem()
            limit = {"timeout": _FIRST_ANSWER_S} if filesystem.async_impl and not self._answered else {}
            content: bytes | None = None
            try:
                content = filesystem.cat_file(self._path(name), **limit)
            except FileNotFoundError:
                self._check_bucket(filesystem, limit)
            self._answered = True  # a slow network is no wrong server
            return content

    def fetch(self, name: str, target: Path) -> bool:
        """Download a file; return False if it does not exist."""
        with self._explained():
            try:
                self._filesystem().get_file(self._path(name), str(target))
            except FileNotFoundError:
                return False
        return True

    def put(self, file: Path, name: str) -> None:
        """Upload a file, and delete the local one."""
        with self._explained():
            self._filesystem().put_file(str(file), self._path(name))
        file.unlink()

    def _path(self, name: str) -> str:
        return f"{self._scheme}://{self._inside}/{name}"

    def _filesystem(self) -> Any:
        """Return the fsspec filesystem of this process: none survives a fork, so a forked process opens its own."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Any:
        try:
            import fsspec

            kind = fsspec.get_filesystem_class(self._scheme)
        except ImportError as error:
            raise UserError(
                f"{self} needs a package that is not installed: python -m pip install 'opsin[{self._service.extra}]'."
            ) from error
        # Not fsspec's cached filesystem, whose keys and listings would be those of an earlier one.
        filesystem = kind(
            skip_instance_cache=True, use_listings_cache=False, **self._service.arguments, **self._arguments()
        )
        if self._scheme == "s3":
            filesystem.retries = _ATTEMPTS
        return filesystem

    def _arguments(self) -> dict[str, Any]:
        options = self._options
        found: dict[str, Any]
        if self._scheme == "gs":
            found = {"endpoint_url": options.endpoint_url, "token": "anon" if options.anonymous else None}
        elif self._scheme == "az":
            found = {"anon": options.anonymous or None}
        else:
            region = {"region_name": options.region} if options.region else None
            found = {
                "endpoint_url": options.endpoint_url,
                "client_kwargs": region,
                "profile": options.profile,
                "anon": options.anonymous or None,
            }
        return {name: value for name, value in found.items() if value is not None}

    def _check_bucket(self, filesystem: Any, limit: Mapping[str, float]) -> None:
        """Refuse a missing bucket; without the permission to list the bucket, it is not known whether it is missing."""
        bucket = self._inside.partition("/")[0]
        if self._scheme == "memory":
            return
        try:
            filesystem.info(f"{self._scheme}://{bucket}", **limit)
        except PermissionError:
            return
        except FileNotFoundError:
            raise UserError(
                f"{self}: there is no bucket '{bucket}'. Check its name and datamodule.storage_options."
            ) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the exceptions of the service's package into one message that says what to do about it."""
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:  # each service raises kinds of its own, from several libraries
            if isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
                raise  # the local disk, not the bucket
            raise UserError(self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        kinds = {kind.__name__ for cause in (error, error.__cause__, error.__context__) for kind in type(cause).__mro__}
        text = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        no_account = self._scheme == "az" and isinstance(error, ValueError) and self._opened is None
        if kinds & _NO_KEYS or no_account:
            return f"{self}: no credentials were found ({text}). {self._service.keys}"
        status = next(
            (getattr(error, name) for name in ("status_code", "status", "code") if hasattr(error, name)), None
        )
        if kinds & _REFUSED or status in (401, 403):
            return f"{self}: the server refuses the keys ({text}). {self._service.keys}"
        way_out = "Check the network"
        if "endpoint_url" in self._service.options:
            variable = " or AWS_ENDPOINT_URL" if self._scheme == "s3" else ""
            way_out += f", and datamodule.storage_options.endpoint_url{variable} if the bucket is on another server"
        endpoint = f" at {self._options.endpoint_url}" if self._options.endpoint_url else ""
        return f"{self}{endpoint} cannot be reached: {text}. {way_out}."


def _check_options(path: str, options: StorageOptions, applicable: Sequence[str]) -> None:
    """Refuse options that do not apply to a path."""
    for name, value in asdict(options).items():
        if value and name not in applicable:
            raise UserError(f"datamodule.storage_options.{name} does not apply to {path}; leave it null.")


_NO_KEYS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "CredentialUnavailableError"}
_REFUSED = {"PermissionError", "ClientAuthenticationError", "RefreshError"}


def open_storage(path: str, options: StorageOptions | None = None) -> Storage:
    """Open the storage that a path names.

    Args:
        path: A local folder, also as `file:///FOLDER`, or a bucket: `s3://`, `az://` or `gs://BUCKET/PREFIX`.
        options: Connection options of a bucket.

    Raises:
        UserError: The path is neither, an option does not apply, or the package for its service is not installed.
    """
    scheme, separator, inside = path.partition("://")
    if not separator or scheme == "file":
        _check_options(path, options or StorageOptions(), ())
        return LocalStorage(real_path(inside if separator else path))
    if scheme in _SERVICES:
        return BucketStorage(path, options or StorageOptions())
    raise UserError(
        f"datamodule.path={path}: shards are read from a local folder or from s3://BUCKET/PREFIX, "
        "az://CONTAINER/PREFIX or gs://BUCKET/PREFIX."
    )
