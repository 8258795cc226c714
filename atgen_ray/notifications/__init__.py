"""Notifications by webhook and e-mail: of people about tasks, of a run's owner about its end.

Nothing here stops a run: a channel that fails is tried again, and what became of it is returned as
a line for the journal.
"""

from atgen_ray.notifications.channels import WEBHOOK, Message, check_secret, send_message
from atgen_ray.notifications.messages import Ending, NewTasks, Stall
from atgen_ray.notifications.owner import NOTIFIED, tell_owner

__all__ = [
    "NOTIFIED",
    "WEBHOOK",
    "Ending",
    "Message",
    "NewTasks",
    "Stall",
    "check_secret",
    "send_message",
    "tell_owner",
]
