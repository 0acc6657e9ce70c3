"""Makes what tests of several modules need: jobs, problems, collections, measurements, trainings."""
