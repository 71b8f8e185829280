"""A task in a request's body, in TOML or JSON."""

from keyflock_server.protocol.operator.call import JSON
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import TaskError, parse_task, parse_task_json


def task_in(body: bytes, media_type: str) -> TaskSpec:
    """Return the task that an operator sent; raises ApiError ``invalid_task`` with every problem."""
    try:
        if media_type == JSON:
            return parse_task_json(body)
        return parse_task(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ApiError(ProblemCode.INVALID_TASK, "The task is not UTF-8 text.") from None
    except TaskError as error:
        raise ApiError(ProblemCode.INVALID_TASK, str(error), problems=error.problems) from None
