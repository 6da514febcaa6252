"""What is wrong with the data, before anything trains on it: copies, labels, classes that look alike, how hard each session is."""

from hf_cl.data_check.check import Found, Options, check_data
from hf_cl.data_check.report import DataReport, left_out

__all__ = ["DataReport", "Found", "Options", "check_data", "left_out"]
