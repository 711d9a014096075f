"""Names in a cloud, checked before a request is sent: projects, regions, accounts, keys."""

from __future__ import annotations

import re
from collections.abc import Callable

_PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
_REGION = r"[a-z]+(-[a-z]+)+[0-9]{1,2}"


def _checker(pattern: str, expected: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text and not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"{expected} is expected, or nothing")
        return text

    return check


# Each returns the text, which may be empty, and raises a ValueError that says what is expected.
check_project = _checker(_PROJECT, 'the ID of a Google Cloud project, such as "my-project"')
check_location = _checker(_REGION, 'a region such as "europe-west4"')
check_aws_region = _checker(r"[a-z]{2}(-[a-z]+)+-[0-9]", 'a region such as "eu-central-1"')
check_service_account = _checker(
    r"[a-zA-Z0-9._-]+@[a-z0-9.-]+\.gserviceaccount\.com",
    'the address of a service account, "name@project.iam.gserviceaccount.com",',
)
check_network = _checker(
    r"projects/[a-z0-9-]+/global/networks/[a-z0-9-]+",
    'a network, "projects/NUMBER/global/networks/NAME",',
)
check_kms_key = _checker(
    rf"projects/{_PROJECT}/locations/{_REGION}/keyRings/[\w-]+/cryptoKeys/[\w-]+",
    'a key, "projects/P/locations/L/keyRings/R/cryptoKeys/K",',
)
check_bucket = _checker(
    r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[\w.=@+-]+)*", "gs://bucket/folder"
)
check_s3_bucket = _checker(
    r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.=@+-]+)*", "s3://bucket/folder"
)
check_role = _checker(
    r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+",
    'the ARN of a role, "arn:aws:iam::123456789012:role/NAME",',
)
check_image = _checker(
    r"[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?@sha256:[0-9a-f]{64}", "an image by digest, name@sha256:...,"
)
check_endpoint = _checker(
    r"https://[a-z0-9.-]+(:[0-9]+)?|http://(localhost|127\.0\.0\.1)(:[0-9]+)?",
    "https://host (or http://localhost:PORT)",
)
check_model_name = _checker(
    r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9_])?", "letters, digits, '_', '.' and '-'"
)
check_machine = _checker(r"[a-z][a-z0-9]*-[a-z0-9-]*[a-z0-9]", 'a machine such as "n1-standard-2"')


def check_all(**given: str) -> None:
    """Checks names by the kind that the argument is called by; `project="my-project"`.

    Raises:
      ValueError: Naming the argument, its value and what is expected.

    Examples:
      >>> check_all(project="my-project", location="europe-west4")
    """
    for kind, text in given.items():
        try:
            globals()[f"check_{kind}"](text)
        except ValueError as error:
            raise ValueError(f"{kind.replace('_', ' ')} {text!r}: {error}") from error
