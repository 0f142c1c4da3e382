"""What any timed MLPerf run needs, whatever the model: clock, ranks, launch, campaign."""
