"""The engine as an OCI runtime for podman, containerd and Kubernetes. One module a verb."""
