"""Mathematics. Enters: a response and its references. Leaves: whether they are the same, or that it cannot be told.
`pool` keeps workers (`server`) that can be killed, since symbolic algebra cannot be bounded from inside;
`answers` decides there, with `text`, `numbers` and `units`, and math-verify for the rest.
May import `reading`, `letters` and the confinement of `sandbox`, never `graders`; it runs no hostile program."""
