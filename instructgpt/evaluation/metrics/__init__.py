"""Metrics of texts: functions of strings, by the data sets' official definitions."""
