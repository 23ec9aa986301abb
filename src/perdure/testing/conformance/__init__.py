"""Conformance suites: what every adapter of a port must do, as tests that an adapter's own test suite inherits.

```python
class TestMyHistoryStore(HistoryStoreConformance):
    def make_store(self, folder: Path) -> HistoryStore:
        return MyHistoryStore(folder / "store")
```
"""
