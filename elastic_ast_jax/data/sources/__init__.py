"""Where clips come from: folders, manifests, prepared data sets and synthesized sounds."""
