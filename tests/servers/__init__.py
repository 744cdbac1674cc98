"""Real servers for tests and benchmarks, all on 127.0.0.1 and a port that the system chooses: `ranges`
(HTTP and as much of S3 as clients need, quick), `s3` (moto), and `proxy`, which puts faults in between."""
