"""Between institutions: the wire, the coordinator service, the site agent, enrolment and keys."""
