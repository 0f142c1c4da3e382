"""What any timed MLPerf run needs, whatever the model: clock, ranks, launch, campaign."""

from harness.commands import watch_imports

watch_imports()
