"""From one declaration to an image, a chart and a running system on Kubernetes."""
