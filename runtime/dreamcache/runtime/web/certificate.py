"""A certificate for this run alone, which the phone's owner accepts with one tap.

Without HTTPS a page from another machine has no WebGPU, no threads and no storage. Phones want ECDSA P-256, the address
among the names, and at most 825 days.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

_DAYS = 365
"""Before and after now, so that a phone's clock may be wrong; together less than a phone's 825."""


def temporary_context(names: Sequence[str]) -> ssl.SSLContext:
    """A server's context with a new certificate for these addresses and names; its key is never written.

    Raises: ModuleNotFoundError without trustme (extra `[web]`).
    """
    import trustme

    now, days = datetime.now(timezone.utc), timedelta(days=_DAYS)
    authority = trustme.CA(organization_name="dreamcache web")
    issued = authority.issue_cert(
        *names, organization_name="dreamcache web", not_before=now - days, not_after=now + days
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context
