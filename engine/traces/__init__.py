"""The record of a run: its form, writer and reader."""
