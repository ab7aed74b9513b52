"""Objects behind `s3://`, through s3fs and the client library that it has from botocore."""

from __future__ import annotations

import errno
from typing import Any

from softlabel_codec.errors import LimitError, StateError
from softlabel_codec.storage.location import Url
from softlabel_codec.storage.ranges import NOTHING, Part, Range, RangesIgnoredError, RemoteObject, TransientError, failed

_LOGIN = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket set FSSPEC_S3_ANON=true"
_UNSEEN = "Check the credentials; if you may not list the bucket, the answer is the same for what is not there"
_MISSING = {"NoSuchKey": "no such object", "NoSuchBucket": "no such bucket", "NoSuchVersion": "no such version of the object"}


class RefusedError(Exception):
    """A service answers a request with an error.

    Parameters
    ----------
    code : str
        What S3 calls it, such as `NoSuchKey`.
    status : int
        Status of HTTP.
    said : str
        Its text.
    """

    def __init__(self, code: str, status: int, said: str) -> None:
        super().__init__(code, status, said)
        self.code, self.status, self.said = code, status, said

    def as_os_error(self, url: Url, what: str) -> OSError:
        """Return the subclass of OSError that fits; `what` says what was asked for."""
        said = f"{self.said} ({self.code})" if self.said else self.code
        if self.status == 404:
            return failed(url, errno.ENOENT, f"{_MISSING.get(self.code, 'no such object')}: {said}")
        if self.status in (401, 403):
            return failed(url, errno.EACCES, f"access denied: {said}. {_UNSEEN}")
        return failed(url, errno.EIO, f"{what}: the service answers {self.status}: {said}")


async def call(files: Any, url: Url, what: str, method: str, **asked: Any) -> Any:
    """Return the answer to one request, after the tries that the client library is set to; `what` names it in errors.

    Raises
    ------
    RefusedError
        If the answer is an error.
    OSError
        If there is no answer, or there are no credentials.
    TransientError
        If the answer breaks off or cannot be read.
    """
    from botocore import exceptions  # noqa: PLC0415  s3fs needs it, and nothing else does

    try:
        await files.set_session()
        client = await files.get_s3(asked["Bucket"])
        known = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[method]).input_shape.members
        if not known.keys() >= asked.keys():
            raise StateError(
                f"botocore does not know {', '.join(asked.keys() - known.keys())}: pip install --upgrade s3fs aiobotocore botocore"
            )
        configured = {name: value for name, value in {**files.s3_additional_kwargs, **files.req_kw}.items() if name in known}
        return await getattr(client, method)(**configured, **asked)
    except exceptions.ClientError as error:
        answer = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise RefusedError(str(answer.get("Code", "")), status, str(answer.get("Message", ""))) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError) as error:
        raise failed(url, errno.EACCES, f"{error}. {_LOGIN}") from None
    except (exceptions.BotoCoreError, OSError) as error:
        said = " ".join(str(error).split())
        raise failed(url, errno.EIO, f"{what}: {type(error).__name__}: {said}") from None
    except StateError:
        raise
    except Exception as error:  # of the libraries that carry requests and parse answers, when a service has too much to do
        raise TransientError(f"{type(error).__name__} {error}") from None


class S3Object(RemoteObject):
    """An object behind `s3://`. The client library repeats requests that fail; here those are repeated whose answer breaks off."""

    async def _ask(self, files: Any, path: str, wanted: Range, most_bytes: int | None) -> Part:
        bucket, key, version_id = files.split_path(path)
        asked = {"Bucket": bucket, "Key": key, "Range": wanted.header, "VersionId": version_id}
        if wanted.most_bytes is None:
            del asked["Range"]
        try:
            answer = await call(files, self.url, str(wanted), "get_object", **{name: value for name, value in asked.items() if value})
        except RefusedError as error:
            if error.status == 416:
                return NOTHING
            raise error.as_os_error(self.url, str(wanted)) from None
        body, length, content_range = answer["Body"], answer["ContentLength"], answer.get("ContentRange")
        try:
            if content_range is None:
                self.check_whole(wanted, length)  # before it is read
            self.check_length(wanted, length, most_bytes)
            data = await body.read()
        except (RangesIgnoredError, LimitError, TransientError):
            raise
        except Exception as error:
            raise TransientError(f"{type(error).__name__} {error}".strip()) from None
        finally:
            body.close()
        if len(data) != length:
            raise TransientError(f"expected {length} bytes, got {len(data)}")
        return self._answer(wanted, data, content_range, answer.get("ETag", ""))
