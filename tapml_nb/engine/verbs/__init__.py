"""What is done with an engine: functions over it, each verb once.

They run on the session's thread (``engine.start(verb, …)``, ``engine.do(verb, …)``) but where one
says that it may be called from any.
"""
