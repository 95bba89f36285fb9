"""Runs and trainings on other machines, by engines that exist."""
