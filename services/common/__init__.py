"""What all services share: streams, blobs, wire format, HTTP shell, settings, policies, errors, telemetry.

In: settings, messages of `rgopd.protos`, bytes from Redis and HTTP.
Out: the same as checked Python values and numpy arrays, and errors of `errors` that say what to do.
Not imported: any service, torch, transformers. It is in every image, also in those that hold neither.
"""
