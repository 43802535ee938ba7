"""Running hostile code. Enters: a `Command` (program, input, limits). Leaves: a `Finished` (how it ended, its bytes).
The service's side is `pool` > `slot` > `processes` > `zygote_process`, `streams`, `command`; `ladder` and `probe`
choose and attack the isolation. The far side is `zygote` > `child` > `candidate`, `checker`; between
these two, `peer` > `crossing` > `mirror`, `judging` > `shared`, `describe` > `plain`, `library`.
The far side imports nothing but the standard library: its interpreter is started without site-packages.
Nothing here imports `code`, `graders` or `engine`, or knows what a right answer is."""
