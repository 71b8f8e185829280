"""Conditions on changes: ``If-Match`` names the revision that a change was decided on.

An answer whose struct has a field ``revision`` has it as its ETag, in quotes. It names what operators can
change of a resource, not its counts: those of a busy task change all the time, and are no reason to refuse.
The revision is compared before the handler runs, and again, by ``AuditContext.revision``, in the transaction
of the change: of two changes with one ETag, one is made.

Source: RFC 9110, 8.8.3 and 13.1.1.
"""

from collections.abc import Mapping

from keyflock_server.protocol.problems import ApiError, ProblemCode


def revision_etag(answer: object) -> str | None:
    """Return the ETag of an answer with a revision; None for others."""
    revision = getattr(answer, "revision", None)
    return None if revision is None else f'"{revision}"'


def named_revision(headers: Mapping[str, str], revision: object) -> str | None:
    """Return the present revision, which ``If-Match`` must name, or None where a star stands for any.

    Raises:
        ApiError: ``precondition_failed``; it names others.
    """
    wanted = [tag.strip() for tag in headers["if-match"].split(",")]
    if wanted == ["*"]:
        return None
    if f'"{revision}"' not in wanted:
        raise ApiError(
            ProblemCode.PRECONDITION_FAILED,
            f"It is at revision {revision} now, and If-Match names another: read it again, and decide anew.",
        )
    return str(revision)


def changed_meanwhile() -> ApiError:
    """Return the error for a change that was overtaken by another one."""
    return ApiError(
        ProblemCode.PRECONDITION_FAILED, "It was changed in this very moment: read it again, and decide anew."
    )


def unexpected_condition() -> ApiError:
    """Return the error for a condition on a call that knows none, which must not be ignored."""
    return ApiError(ProblemCode.PRECONDITION_FAILED, "This call takes no If-Match; leave it out.")
