"""What tests share: fakes, real processes to talk to, waiting without sleeping."""
