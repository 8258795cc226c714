"""What a run says of the step under way."""

from atgen_ray.core.progress import ProgressTracker


def test_what_is_waited_for_is_told_while_nothing_gets_done() -> None:
    tracker = ProgressTracker()
    tracker.start_step(1, "generation")
    tracker.wait("no room")
    assert tracker.snapshot()["waiting"] == "no room"
    tracker(3, 10)  # the step gets on: what waits belongs to others
    tracker.wait("no room")
    assert tracker.snapshot()["waiting"] is None
    tracker.wait("no room")
    assert tracker.snapshot()["waiting"] == "no room"
    tracker.wait(None)
    tracker.wait_outside("a provider")
    tracker(4, 10)
    assert tracker.snapshot()["waiting"] == "a provider"
    tracker.start_step(1, "training")
    assert tracker.snapshot()["waiting"] is None
