"""A bucket of S3, or of what speaks its protocol, and what its refusals mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from opsin.errors import UserError

MISSING = ("404", "NoSuchKey", "NotFound")
DENIED = ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


@dataclass(frozen=True)
class StorageOptions:
    """How a bucket is reached; what is left out is boto3's choice, so its environment variables and files hold.

    Keys are none of these: a config is kept beside every run, and they belong into the environment or a profile.

    Attributes:
        endpoint_url: Of a server that is not Amazon's.
        region: Of the bucket.
        profile: Of `~/.aws/credentials`.
        anonymous: Ask without keys, for public buckets.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False


class S3Storage:
    """A bucket and a prefix in it.

    Args:
        path: `s3://bucket/prefix`.
        options: How it is reached.

    Raises:
        UserError: boto3 is not installed, or the options are none.
    """

    local = False

    def __init__(self, path: str, options: StorageOptions) -> None:
        inside = path.removeprefix("s3://").strip("/")
        self._path = f"s3://{inside}"
        self._options = options
        self._bucket, _, prefix = inside.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        if not self._bucket:
            raise UserError(f"datamodule.path={path} names no bucket: s3://BUCKET/PREFIX.")
        with self._explained():
            self._client = _client(options)

    def __str__(self) -> str:
        return self._path

    def __reduce__(self) -> tuple[type["S3Storage"], tuple[str, StorageOptions]]:
        return S3Storage, (self._path, self._options)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None: there is none."""
        with self._explained():
            try:
                found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
                content: bytes = found["Body"].read()
                return content
            except self._client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise

    def fetch(self, name: str, target: Path) -> bool:
        """Download a file."""
        with self._explained():
            try:
                self._client.download_file(self._bucket, self._prefix + name, str(target))
            except self._client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return False
                raise
        return True

    def put(self, file: Path, name: str) -> None:
        """Upload a file, and delete it here."""
        with self._explained():
            self._client.upload_file(str(file), self._bucket, self._prefix + name)
        file.unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what boto3 raises into one message with a way out."""
        boto3, botocore = _boto()
        exceptions, failed = botocore.exceptions, boto3.exceptions.S3UploadFailedError
        try:
            yield
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise UserError(
                f"{self}: there are no keys for it. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
                "environment, name a profile of ~/.aws/credentials (datamodule.storage_options.profile=NAME), or say "
                "that the bucket is public (datamodule.storage_options.anonymous=true)."
            ) from error
        except exceptions.ClientError as error:
            raise UserError(self._refusal(error.response["Error"])) from error
        except (exceptions.BotoCoreError, failed, ValueError) as error:
            endpoint = f" at {self._options.endpoint_url}" if self._options.endpoint_url else ""
            raise UserError(
                f"{self}{endpoint} cannot be reached: {error}. Look at the network, and at "
                "datamodule.storage_options.endpoint_url or AWS_ENDPOINT_URL where the bucket is not Amazon's."
            ) from error

    def _refusal(self, error: dict[str, str]) -> str:
        code, said = error.get("Code", ""), error.get("Message", "")
        if code == "NoSuchBucket":
            return f"{self}: there is no bucket '{self._bucket}'. Is its name right, and datamodule.storage_options?"
        if code in DENIED:
            return (
                f"{self}: the server refuses the keys ({code}: {said}). Look at AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or at the profile, and whether they may read this bucket."
            )
        return f"{self}: the server answers {code}: {said}."


def _boto() -> tuple[Any, Any]:
    """The packages boto3 and botocore, which cost half a second and are not always there."""
    try:
        import boto3
        import boto3.exceptions
        import botocore.config
        import botocore.exceptions
    except ImportError as error:
        raise UserError(
            "Shards in a bucket need the package boto3: python -m pip install 'opsin[streaming]'."
        ) from error
    return boto3, botocore


def _client(options: StorageOptions) -> Any:
    boto3, botocore = _boto()
    # Three tries within seconds each: who waits for an hour for a server that is gone learns nothing by it.
    config = botocore.config.Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"max_attempts": 3, "mode": "standard"},
        max_pool_connections=32,
        signature_version=botocore.UNSIGNED if options.anonymous else None,
    )
    session = boto3.Session(profile_name=options.profile, region_name=options.region)
    return session.client("s3", endpoint_url=options.endpoint_url, config=config)
