-- One wrk script for all rows. Arguments after "--": MODE [ARGUMENT]
--   get            the request as wrk builds it
--   close          the same with "Connection: close": a new connection for each request
--   post BYTES     POST with a body of that many bytes
--   paths FILE     GET of a random line of FILE (one path per line)
-- The sum of the run goes to stderr as one line of JSON, so that nothing has to be read from wrk's prose.

local threads = {}

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

local function use_paths(file)
  local requests = {}
  for path in io.lines(file) do
    requests[#requests + 1] = wrk.format("GET", path)
  end
  math.randomseed(42 + id)
  local random, count = math.random, #requests
  request = function() return requests[random(count)] end
end

-- Called by wrk.init, which afterwards builds the fixed request from what was set here.
function init(args)
  local mode, argument = args[1], args[2]
  if mode == "close" then
    wrk.headers["Connection"] = "close"
  elseif mode == "post" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/octet-stream"
    wrk.body = string.rep("x", tonumber(argument))
  end
  if mode == "paths" then use_paths(argument) end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"errors_connect": %d, "errors_read": %d, "errors_write": %d, "errors_status": %d, "errors_timeout": %d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99), latency.max,
    e.connect, e.read, e.write, e.status, e.timeout))
end
