"""The built-in world: small scenes of exactly known meaning, where the truth of every principle can be measured."""
