"""Speed, size and robustness of the package, beside a peer where there is one."""
