//! Which endpoint gets a request.
