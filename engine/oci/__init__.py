"""The engine as an OCI runtime: what podman, containerd and Kubernetes drive. One verb a file."""
