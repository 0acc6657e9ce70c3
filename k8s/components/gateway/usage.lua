-- Reads what a response says that it used into Envoy's dynamic metadata, from where the access log tells the scheduler,
-- and takes out the last event of a stream where only the scheduler asked for it. It runs in Envoy, after the external
-- processor in the order of filters, and touches no response that has no budget.

local NAMESPACE = "predictive_scheduling"
local GRANT, ADDED = "x-predictive-scheduling-request", "x-predictive-scheduling-usage"
local START = "data: {"
local LONGEST_EVENT = 65536
local COUNTS = { "completion_tokens", "prompt_tokens", "reasoning_tokens", "output_tokens", "input_tokens" }
local NAMES = { output_tokens = "completion_tokens", input_tokens = "prompt_tokens" }
-- For streams that are abandoned it is noted how many events there were: often at first, as such a note costs as much as
-- a hundred events, and then whenever there are an eighth more.
local OFTEN, SHARE = 16, 1 / 8

-- Envoy's objects hold until the next chunk is waited for, so they are asked for each time.
local function note(handle, name, value)
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, name, value)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(GRANT) == nil then
    return
  end
  note(handle, "take_out", headers:get(ADDED) ~= nil)
  headers:remove(ADDED)
end

local function note_usage(handle, text)
  for _, name in ipairs(COUNTS) do
    local count = text:match('"' .. name .. '"%s*:%s*(%d+)')
    if count ~= nil then
      note(handle, NAMES[name] or name, tonumber(count))
    end
  end
end

-- The text without events that hold a usage and no choice. ``from``: where the first usage is.
local function without_usage(text, from)
  while from ~= nil do
    local least = math.max(1, from - LONGEST_EVENT)
    local start = text:sub(least, from - 1):match(".*\n\r?\n()")
    local first = start and least + start - 1 or least
    local last = select(2, text:find("\r?\n\r?\n", from)) or #text
    local event = text:sub(first, last)
    if event:find('"usage"%s*:%s*{') and event:find('"choices"%s*:%s*%[%s*%]') then
      text = text:sub(1, first - 1) .. text:sub(last + 1)
      last = first - 1
    end
    from = text:find('"usage"', last + 1, true)
  end
  return text
end

-- Text up to the end of its last whole event, and the rest, which may be the beginning of an event with the usage.
local function split(text)
  if text:sub(-2) == "\n\n" then -- as engines write: an event at a time
    return text, ""
  end
  local whole = text:match("^.*\r?\n\r?\n") or ""
  local rest = text:sub(#whole + 1)
  local begun = rest:sub(1, #START) == START or START:sub(1, #rest) == rest
  if begun and #rest < LONGEST_EVENT then
    return whole, rest
  end
  return text, ""
end

local function count_of(text)
  local count, at = 0, 1
  while true do
    at = text:find("data:", at, true)
    if at == nil then
      return count
    end
    count, at = count + 1, at + 5
  end
end

function envoy_on_response(handle)
  local known = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local packed = (handle:headers():get("content-encoding") or "identity"):lower() ~= "identity"
  if known == nil or packed then -- what a packed response used is not known, so that what was expected counts
    return
  end
  local streamed = (handle:headers():get("content-type") or ""):find("text/event-stream", 1, true) ~= nil
  local take_out = streamed and known["take_out"]
  local held, events, next_note = "", 0, OFTEN
  for chunk in handle:bodyChunks() do
    local text = chunk:getBytes(0, chunk:length())
    local came = #held
    if came ~= 0 then
      text = held .. text
    end
    if streamed then
      text, held = split(text)
      events = events + count_of(text)
      if events >= next_note then
        next_note = events + math.max(OFTEN, events * SHARE)
        note(handle, "events", events)
      end
    else
      held = text:sub(-LONGEST_EVENT)
    end
    local kept, usage = text, text:find('"usage"', 1, true)
    if usage ~= nil then
      note_usage(handle, text:sub(usage))
      if take_out then
        kept = without_usage(text, usage)
      end
    end
    if streamed and (came ~= 0 or #held ~= 0 or #kept < #text) then
      chunk:setBytes(kept)
    end
  end
  if streamed then
    note(handle, "events", events)
  end
end
