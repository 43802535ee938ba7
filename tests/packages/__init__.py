"""Programs and tests that use the packages: run by `make test-packages`, in an environment that has them all."""
