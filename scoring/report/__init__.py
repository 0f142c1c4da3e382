"""The report: one self-contained page with the verdict, the figures and the findings."""
