"""The bill of materials of an image, as an SPDX 2.3 document: the same for the same image.

Fields and their rules: the SPDX Specification 2.3, clauses 6, 7 and 11. Package identities are
package URLs (purl) of the type `deb`.
"""

from __future__ import annotations

import json
import re
import uuid
from itertools import starmap
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import appliance
from appliance.tools import SUITE

if TYPE_CHECKING:
    from appliance.image.compose import Job

ENDING = "spdx.json"

# A document must have a time, but this one depends on nothing but the image.
_CREATED = "1980-01-01T00:00:00Z"
_SPACE = uuid.UUID("c1f0a6c5-2f0e-4b7e-8f83-6a3d3f5e9b21")
_DOCUMENT = "SPDXRef-DOCUMENT"
_IMAGE = "SPDXRef-Image"
_ROUTER = "SPDXRef-Appliance"


def text(job: Job, digest: str, licences: str) -> str:
    """The document of the image whose raw disk has the SHA-256 `digest`.

    `licences` is the name of the archive with the licence texts.
    """
    debian = job.base.facts().packages
    content = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": job.name,
        "documentNamespace": f"urn:uuid:{uuid.uuid5(_SPACE, f'{job.name} {digest}')}",
        "creationInfo": {
            "created": _CREATED,
            "creators": [f"Tool: appliance-{appliance.__version__}"],
        },
        "comment": f"The licence texts of all packages are in {licences}.",
        "packages": [_image(job, digest), _router(), *starmap(_package, debian.items())],
        "relationships": [
            _relation(_DOCUMENT, "DESCRIBES", _IMAGE),
            _relation(_IMAGE, "CONTAINS", _ROUTER),
            *(_relation(_IMAGE, "CONTAINS", _reference(name)) for name in debian),
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def _image(job: Job, digest: str) -> dict[str, Any]:
    """The disk itself."""
    return {
        **_named(_IMAGE, job.plan.site, job.version),
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "packageFileName": f"{job.name}.raw",
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest}],
    }


def _router() -> dict[str, Any]:
    """What of this project runs on the router."""
    return _named(_ROUTER, "appliance", appliance.__version__)


def _package(name: str, version: str) -> dict[str, Any]:
    """One of Debian's."""
    return {
        **_named(_reference(name), name, version),
        "supplier": "Organization: Debian",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": _purl(name, version),
            }
        ],
    }


def _named(reference: str, name: str, version: str) -> dict[str, Any]:
    """What each package must have; that nothing is said of its files."""
    return {
        "SPDXID": reference,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
    }


def _purl(name: str, version: str) -> str:
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?distro={SUITE}"


def _reference(name: str) -> str:
    """An identity has letters, digits, dots and dashes only; `+` is the one other in a name."""
    return f"SPDXRef-deb-{re.sub('[^a-zA-Z0-9.-]', '-plus-', name)}"


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {
        "spdxElementId": one,
        "relationshipType": kind,
        "relatedSpdxElement": other,
    }
