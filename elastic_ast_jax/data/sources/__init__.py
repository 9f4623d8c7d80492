"""Sources of clips: folders, manifests, prepared data sets and synthesized sounds."""
