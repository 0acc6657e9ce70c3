-- Reads what a response says that it used into Envoy's dynamic metadata, from where the access log tells the scheduler,
-- and takes out the last event of a stream where only the scheduler asked for it. It runs in Envoy, after the external
-- processor in the order of filters, and touches no response that has no budget.

local NAMESPACE = "predictive_scheduling"
local GRANT, ADDED = "x-predictive-scheduling-request", "x-predictive-scheduling-usage"
local START = "data: {"
local LONGEST_EVENT = 65536
local COUNTS = { "completion_tokens", "prompt_tokens", "reasoning_tokens", "output_tokens", "input_tokens" }
local NAMES = { output_tokens = "completion_tokens", input_tokens = "prompt_tokens" }
local EVERY = 16 -- events, between two notes of how many there were, for streams that are abandoned

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

-- The text without events that hold a usage and no choice.
local function without_usage(text)
  local kept, from = {}, 1
  while from <= #text do
    local last = select(2, text:find("\r?\n\r?\n", from)) or #text
    local event = text:sub(from, last)
    if not (event:find('"usage"%s*:%s*{') and event:find('"choices"%s*:%s*%[%s*%]')) then
      kept[#kept + 1] = event
    end
    from = last + 1
  end
  return table.concat(kept)
end

-- Text up to the end of its last whole event, and the rest, which may be the beginning of an event with the usage.
local function split(text)
  local whole = text:match("^.*\r?\n\r?\n") or ""
  local rest = text:sub(#whole + 1)
  local begun = rest:sub(1, #START) == START or START:sub(1, #rest) == rest
  if begun and #rest < LONGEST_EVENT then
    return whole, rest
  end
  return text, ""
end

local function count_of(text)
  local _, count = text:gsub("data:", "")
  return count
end

function envoy_on_response(handle)
  local known = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if known == nil then
    return
  end
  local streamed = (handle:headers():get("content-type") or ""):find("text/event-stream", 1, true) ~= nil
  local take_out = streamed and known["take_out"]
  local held, events, told = "", 0, 0
  for chunk in handle:bodyChunks() do
    local text = held .. chunk:getBytes(0, chunk:length())
    local came = #held ~= 0
    if streamed then
      text, held = split(text)
      events = events + count_of(text)
      if events >= told + EVERY then
        told = events
        note(handle, "events", events)
      end
    end
    local usage = text:find('"usage"', 1, true)
    if usage ~= nil then
      note_usage(handle, text:sub(usage))
    end
    local kept = text
    if take_out and usage ~= nil then
      kept = without_usage(text)
    end
    if streamed then
      if came or #held ~= 0 or #kept < #text then
        chunk:setBytes(kept)
      end
    else
      held = text:sub(-LONGEST_EVENT)
    end
  end
  if streamed then
    note(handle, "events", events)
  end
end
