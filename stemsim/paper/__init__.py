"""The paper's tables, computed again beside the published figures."""
