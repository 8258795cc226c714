"""What a run says of the step under way."""

from atgen_ray.core.progress import ProgressTracker


def test_what_is_waited_for_is_told_while_nothing_gets_done() -> None:
    watch = ProgressTracker()
    watch.begin(1, "generation")
    watch.wait("no room")
    assert watch.snapshot()["waiting"] == "no room"
    watch(3, 10)  # the step gets on: what waits belongs to others
    watch.wait("no room")
    assert watch.snapshot()["waiting"] is None
    watch.wait("no room")
    assert watch.snapshot()["waiting"] == "no room"
    watch.begin(1, "training")
    assert watch.snapshot()["waiting"] is None
