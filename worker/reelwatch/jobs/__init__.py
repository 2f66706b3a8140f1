"""Use cases: plain functions that own their transactions."""
