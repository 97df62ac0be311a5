"""The built-in world: small scenes whose exact meaning is known, so that the truth of every principle can be measured."""
